"""The training loop: batches in, checkpoints and metrics out, resumable to the bit."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn

from dsv4.config import ModelConfig
from dsv4.data.batches import Batch, Batches, Position
from dsv4.training import checkpoint
from dsv4.training.loss import (
    LanguageModel,
    Losses,
    compute_losses,
    count_targets,
    cross_entropy,
    move_biases,
)
from dsv4.training.optimizer import Optimizer
from dsv4.training.rounding import released_formats, rounded_weights
from dsv4.training.schedule import Schedule

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs besides model and data; fields as in `TrainConfig`."""

    out: Path
    schedule: Schedule
    clip: float = 1.0
    bias_speed: float = 1e-3
    weight_decay: float = 0.1
    quantise_from: float = 1.0
    muon_dtype: torch.dtype = torch.float32
    eval_every: int = 100
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None


class Trainer:
    """One run over one model. Fields: `step` done so far, `tokens` seen so far."""

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        batches: Batches,
        settings: LoopSettings,
        validation: tuple[Batch, ...] = (),
    ) -> None:
        self.model, self.config, self.batches = model, config, batches
        self.settings, self.validation = settings, validation
        self.optimizer = Optimizer(
            model,
            config,
            weight_decay=settings.weight_decay,
            muon_dtype=settings.muon_dtype,
        )
        self.step, self.tokens, self.position = 0, 0, Position()
        self._formats = released_formats(config)
        self._biases = _router_biases(model, config)
        self._metrics = settings.out / "metrics.jsonl"
        self._checkpoints = settings.out / "checkpoints"
        self._stop = False

    def resume(self) -> bool:
        """Continue from the newest checkpoint, if there is one. Metrics past it are dropped."""
        found = checkpoint.find(self._checkpoints)
        if not found:
            self._metrics.unlink(missing_ok=True)
            return False
        state = checkpoint.restore(found[-1], self.model, self.optimizer)
        self.step, self.tokens = state["step"], state["tokens"]
        self.position = Position(**state["position"])
        if self._metrics.is_file():
            lines = self._metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= self.step]
            self._metrics.write_text("".join(kept))
        return True

    def run(self, report: Report = lambda record: None) -> bool:
        """Train to the end of the schedule; False if a signal or the time limit ended it early.

        Calls `report` with every metrics record. SIGINT and SIGTERM finish the step under way,
        save and return.
        """
        settings, began = self.settings, time.monotonic()
        saved = began
        with self._signals():
            while self.step < settings.schedule.steps and not self._stop:
                record = self._train_step()
                last = self.step == settings.schedule.steps
                if self.validation and (self.step % settings.eval_every == 0 or last):
                    record["validation_loss"] = self.validate()
                self._write(record)
                report(record)
                now = time.monotonic()
                limit = settings.max_minutes
                self._stop |= limit is not None and now - began > 60 * limit
                if last or self._stop or now - saved > 60 * settings.checkpoint_minutes:
                    self.save()
                    saved = now
        return self.step == settings.schedule.steps

    def save(self) -> Path:
        """Write a checkpoint of the present step."""
        state = {"tokens": self.tokens, "position": asdict(self.position)}
        return checkpoint.save(self._checkpoints, self.step, self.model, self.optimizer, state)

    @torch.no_grad()
    def validate(self) -> float:
        """Mean next-token loss of the validation batches, with the weights a user would get."""
        model = cast(LanguageModel, self.model)
        with self._rounded():
            sums = [
                cross_entropy(model, model.features(batch.ids_BT), batch, ahead=1)
                for batch in self.validation
            ]
        return float(sum(s for s, _ in sums)) / sum(n for _, n in sums)

    def _train_step(self) -> dict[str, Any]:
        began, schedule = time.monotonic(), self.settings.schedule
        batches = []
        for _ in range(schedule.micro_batches(self.step)):
            batch, self.position = self.batches.next(self.position)
            batches.append(batch)
        targets, weight = count_targets(batches), schedule.mtp_weight(self.step)
        done: list[Losses] = []
        with self._rounded():
            for batch in batches:
                losses = compute_losses(
                    cast(LanguageModel, self.model),
                    batch,
                    targets=targets,
                    mtp_weight=weight,
                    hash_layers=self.config.num_hash_layers,
                )
                losses.total.backward()
                done.append(losses)
        trained = [p for p in self.model.parameters() if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(trained, self.settings.clip))
        rate = schedule.rate(self.step)
        self.optimizer.step(rate)
        load = _sum_loads(done)
        move_biases(self._biases, load, self.settings.bias_speed)
        self.step += 1
        self.tokens += sum(batch.tokens for batch in batches)
        seconds = time.monotonic() - began
        return {
            "step": self.step,
            "tokens": self.tokens,
            "loss": sum(d.token for d in done) / targets,
            "mtp_loss": sum(d.mtp for d in done) / max(1, sum(d.mtp_targets for d in done)),
            "balance": sum(d.balance for d in done) / len(done),
            "overload": max((float(n.max() / n.float().mean()) for n in load.values()), default=1),
            "lr": rate,
            "grad_norm": norm,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(sum(batch.tokens for batch in batches) / seconds, 1),
        }

    def _rounded(self) -> contextlib.AbstractContextManager[None]:
        active = self.step >= self.settings.quantise_from * self.settings.schedule.steps
        return rounded_weights(self.model, self._formats) if active else contextlib.nullcontext()

    def _write(self, record: dict[str, Any]) -> None:
        self._metrics.parent.mkdir(parents=True, exist_ok=True)
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def _router_biases(model: nn.Module, config: ModelConfig) -> dict[int, Tensor]:
    """Layer number -> selection bias; the MTP block counts as the layer after the last."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    found = {}
    for name, tensor in named.items():
        if name.endswith("ffn.gate.bias"):
            where, number = name.split(".")[:2]
            found[int(number) + (config.num_hidden_layers if where == "mtp" else 0)] = tensor
    return found


def _sum_loads(done: list[Losses]) -> dict[int, Tensor]:
    total: dict[int, Tensor] = {}
    for losses in done:
        for layer, load in losses.load.items():
            total[layer] = total[layer] + load if layer in total else load
    return total


def _step_of(line: str) -> int:
    """Step of a metrics line; a line cut off by a kill counts as past every checkpoint."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 1 << 62
