"""What a server counts, under the names that vLLM gave these things."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dsv4.chat.answer import Usage
from dsv4.chat.engine import Engine
from dsv4.engine import request as engine
from dsv4.engine.memory import Stats

_TIMES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class _Engine(Collector):
    """What the engine says of itself when it is asked."""

    def __init__(self, served: Engine) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        service = self._served.service
        memory = service.core.memory
        for name, text, value in (
            ("num_requests_running", "Requests that are computed", service.running),
            ("num_requests_waiting", "Requests that wait", service.waiting),
            (
                "kv_cache_usage_perc",
                "Share of the memory for states",
                memory.used / memory.capacity,
            ),
        ):
            yield self._one(GaugeMetricFamily, name, text, value)
        # Read from another thread than the engine's: numbers alone.
        speculation = service.core.speculation
        for name, text, count in (
            ("num_preemptions", "Requests put back to wait", service.core.counters.preemptions),
            ("spec_decode_num_draft_tokens", "Tokens that were guessed", speculation.guessed),
            ("spec_decode_num_accepted_tokens", "Guesses that were right", speculation.right),
        ):
            yield self._one(CounterMetricFamily, name, text, count)
        disk = memory.disk
        if disk is not None:
            yield from self._disk(disk)

    def _disk(self, stats: Stats) -> Iterator[Metric]:
        for name, text, value in (
            ("kv_store_bytes", "Disk that the folder of conversations takes", stats.bytes),
            ("kv_store_records", "Records in it", stats.records),
        ):
            yield GaugeMetricFamily(name, text, value)
        for name, text, value in (
            ("kv_store_hits", "Records that were found", stats.hits),
            ("kv_store_misses", "Records that were not", stats.misses),
            ("kv_store_damaged", "Records that were damaged", stats.damaged),
            ("kv_store_dropped", "Records that were not written", stats.dropped),
            ("kv_store_evicted", "Records that made room", stats.evicted),
        ):
            yield CounterMetricFamily(name, text, value)

    def _one(
        self,
        kind: type[GaugeMetricFamily | CounterMetricFamily],
        name: str,
        text: str,
        value: float,
    ) -> Metric:
        family = kind(f"vllm:{name}", text, labels=["model_name"])
        family.add_metric([self._served.model.name], value)
        return family


class Metrics:
    """The counters of one application, in a registry of their own."""

    def __init__(self, served: Engine) -> None:
        self._registry = CollectorRegistry()
        self._model = served.model.name
        self._registry.register(_Engine(served))
        self.prompt = self._counter("prompt_tokens", "Tokens of prompts")
        self.generation = self._counter("generation_tokens", "Tokens of answers")
        self.queries = self._counter("prefix_cache_queries", "Tokens looked up in the cache")
        self.hits = self._counter("prefix_cache_hits", "Tokens found in the cache")
        self.first = self._times("time_to_first_token_seconds", "From request to first token")
        self.gap = self._times("inter_token_latency_seconds", "Between two tokens", _GAPS)
        self.whole = self._times("e2e_request_latency_seconds", "From request to end")
        self.queue = self._times("request_queue_time_seconds", "Until the prompt is begun")
        self.prefill = self._times("request_prefill_time_seconds", "Reading the prompt")
        self.decode = self._times("request_decode_time_seconds", "From first token to end")
        self._ended = Counter(
            "vllm:request_success",
            "Requests that ended",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._malformed = Counter(
            "dsml_malformed",
            "Malformed markup of tool calls that was repaired or shown as text",
            ["kind"],
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self._registry)

    def ended(self, reason: str, usage: Usage, malformed: Mapping[str, int]) -> None:
        """Count a request that reached its end, or was cancelled."""
        self._ended.labels(self._model, reason).inc()
        self.prompt.inc(usage.prompt)
        self.generation.inc(usage.completion)
        self.queries.inc(usage.prompt)
        self.hits.inc(usage.cached)
        for kind, count in malformed.items():
            self._malformed.labels(kind).inc(count)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, ["model_name"], registry=self._registry).labels(
            self._model
        )

    def _times(self, name: str, text: str, buckets: tuple[float, ...] = _TIMES) -> Histogram:
        return Histogram(
            f"vllm:{name}", text, ["model_name"], registry=self._registry, buckets=buckets
        ).labels(self._model)


class Stopwatch:
    """Times one request by what the engine delivers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begun = time.monotonic()
        self._read: float | None = None
        self._token: float | None = None
        self._first: float | None = None

    @property
    def begun(self) -> bool:
        """Whether the engine has done anything for the request."""
        return self._read is not None or self._token is not None

    def see(self, item: engine.Event) -> None:
        now, metrics = time.monotonic(), self._metrics
        if isinstance(item, engine.Prefill):
            if self._read is None:
                self._read = now
                metrics.queue.observe(now - self._begun)
        elif isinstance(item, engine.Token):
            if self._token is None:
                self._first = now
                metrics.first.observe(now - self._begun)
                metrics.prefill.observe(now - (self._read or self._begun))
            else:
                metrics.gap.observe(now - self._token)
            self._token = now

    def end(self) -> None:
        """The request is over."""
        now = time.monotonic()
        self._metrics.whole.observe(now - self._begun)
        if self._first is not None:
            self._metrics.decode.observe(now - self._first)
