"""The training loop: batches in, checkpoints and metrics out, resumable to the bit.

What is trained on what is an `objective.Objective`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from dsv4.config import ModelConfig
from dsv4.data.batches import Position
from dsv4.training import checkpoint
from dsv4.training.loss import move_biases
from dsv4.training.objective import Loss, Objective
from dsv4.training.optimizer import Matrices, Optimizer
from dsv4.training.rounding import released_formats, rounded_weights
from dsv4.training.schedule import Schedule

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs besides model and objective.

    out: run folder (checkpoints, metrics.jsonl). clip: norm that gradients are scaled down to.
    bias_speed: how far an expert's selection bias moves per step.
    matrices: who trains matrices, `muon` or `adamw` (the rest is AdamW's). eps: of AdamW; V4's
    lets every gradient move the weights as far, however small it is.
    quantise_from: share of the run after which the forward pass sees weights as the released
    formats round them (1: never). checkpoint_minutes: wall time between checkpoints.
    max_minutes: save and stop when this much time is spent.
    """

    out: Path
    schedule: Schedule
    clip: float = 1.0
    bias_speed: float = 1e-3
    weight_decay: float = 0.1
    matrices: Matrices = "muon"
    eps: float = 1e-20
    muon_dtype: torch.dtype = torch.float32
    quantise_from: float = 1.0
    eval_every: int = 100
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None


class Trainer:
    """One run over one model. Fields: `step` done so far, `tokens` seen so far."""

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        objective: Objective[Any],
        settings: LoopSettings,
    ) -> None:
        self.model, self.config, self.objective = model, config, objective
        self.settings = settings
        self.optimizer = Optimizer(
            model,
            config,
            weight_decay=settings.weight_decay,
            matrices=settings.matrices,
            muon_dtype=settings.muon_dtype,
            eps=settings.eps,
        )
        self.step, self.tokens, self.position = 0, 0, Position()
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
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
        state = checkpoint.restore(found[-1], self.model, self.optimizer, self.objective)
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
                if self.step % settings.eval_every == 0 or last:
                    record |= self.validate()
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
        return checkpoint.save(
            self._checkpoints, self.step, self.model, self.optimizer, self.objective, state
        )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The objective's held-out metrics, with the weights a user would get."""
        with self._rounded():
            return self.objective.validate()

    def _train_step(self) -> dict[str, Any]:
        began, settings = time.monotonic(), self.settings
        for name, parameter in self._trained.items():
            parameter.requires_grad_(self.objective.trains(name, self.step))
        done: list[Loss] = []
        with self._rounded():
            batches, self.position = self.objective.next(self.position, self.step)
            for batch in batches:
                loss = self.objective.loss(batch, batches, self.step)
                loss.total.backward()
                done.append(loss)
        moved = [p for p in self._trained.values() if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(moved, settings.clip))
        rate = settings.schedule.rate(self.step) * self.objective.rate_factor(self.step)
        self.optimizer.step(rate)
        load = _sum_loads(done)
        moving = {layer: self._biases[layer] for layer in load if layer in self._biases}
        move_biases(moving, load, settings.bias_speed)
        self.step += 1
        tokens = sum(loss.tokens for loss in done)
        self.tokens += tokens
        seconds = time.monotonic() - began
        return {
            "step": self.step,
            "tokens": self.tokens,
            **_means(done),
            "overload": max((float(n.max() / n.float().mean()) for n in load.values()), default=1),
            "lr": rate,
            "grad_norm": norm,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
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


def _means(done: list[Loss]) -> dict[str, float]:
    """Every metric over the step, weighted as the objective says."""
    sums: dict[str, float] = defaultdict(float)
    weights: dict[str, float] = defaultdict(float)
    for loss in done:
        for name, (value, weight) in loss.sums.items():
            sums[name] += value
            weights[name] += weight
    return {name: value / max(weights[name], 1e-30) for name, value in sums.items()}


def _sum_loads(done: list[Loss]) -> dict[int, Tensor]:
    total: dict[int, Tensor] = {}
    for loss in done:
        for layer, load in loss.load.items():
            total[layer] = total[layer] + load if layer in total else load
    return total


def _step_of(line: str) -> int:
    """Step of a metrics line; a line cut off by a kill counts as past every checkpoint."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 1 << 62
