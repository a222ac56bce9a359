"""The training loop: batches in, checkpoints and metrics out, resumable to the bit.

What is trained on what is an `objective.Objective`. Everything that decides the numbers of a run
depends on its settings and steps, never on time: a run that was killed, resumed, or that went
back after a spike gives the numbers of one that was not cut.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from dsv4 import parallel
from dsv4.config import ModelConfig
from dsv4.data.batches import Position
from dsv4.errors import CheckpointError, TrainingError
from dsv4.training.activations import largest_activations
from dsv4.training.anticipation import Anticipation, Fetched
from dsv4.training.checkpoint import PIECE_BYTES, Folder, Restored, Training
from dsv4.training.claim import claimed
from dsv4.training.frozen import is_frozen
from dsv4.training.gradients import clip, complete
from dsv4.training.loss import move_biases
from dsv4.training.metrics import Log, Record, Report, Status, means, overload, sum_loads
from dsv4.training.objective import Loss, Objective
from dsv4.training.optimizer import Optimizer, OptimizerSettings
from dsv4.training.origin import origin
from dsv4.training.rounding import released_formats, rounded_weights
from dsv4.training.routing import given_routing
from dsv4.training.schedule import Schedule
from dsv4.training.spikes import SpikeDetector, SpikeSettings

logger = logging.getLogger("dsv4.training")

DETAILS_EVERY = 10
"""Steps between records that tell activations and loads layer by layer."""


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs besides model and objective.

    out: run folder (checkpoints, metrics.jsonl). clip: norm that gradients are scaled down to.
    bias_speed: how far an expert's selection bias moves per step, unless its name has one of the
    parts `frozen`.
    quantise_from: share of the run after which the forward pass sees weights as the released
    formats round them (1: never). eval_every, checkpoint_every: steps between them.
    piece_bytes: the most tensor data of a checkpoint's file.
    max_minutes: save and stop when this much time is spent.
    spikes: what to do about loss spikes; None: nothing.
    """

    out: Path
    schedule: Schedule
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    clip: float = 1.0
    bias_speed: float = 1e-3
    frozen: tuple[str, ...] = ()
    quantise_from: float = 1.0
    eval_every: int = 100
    checkpoint_every: int = 50
    piece_bytes: int = PIECE_BYTES
    max_minutes: float | None = None
    spikes: SpikeSettings | None = None


class Trainer:
    """One run over one model.

    Fields: `step` done so far, `tokens` seen so far, `position` in the objective's batches,
    `recoveries` from spikes so far, `interrupted` by a signal.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        objective: Objective[Any],
        settings: LoopSettings,
    ) -> None:
        self.model, self.config, self.objective = model, config, objective
        self.settings = settings
        self.optimizer = Optimizer(model, config, settings.optimizer)
        self.step, self.tokens, self.position, self.recoveries = 0, 0, Position(), 0
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        trained = frozenset(self._trained)
        self._training = Training(model, self.optimizer, objective, trained, origin(model))
        self._formats = released_formats(config)
        self._biases = _router_biases(model, config, settings.frozen)
        self._log = Log(settings.out / "metrics.jsonl")
        self._folder = Folder(settings.out / "checkpoints", settings.piece_bytes)
        spikes = settings.spikes if objective.foresees else None
        self._spikes = SpikeDetector(spikes) if spikes is not None else None
        self._fetching = Anticipation(model, objective, spikes.lag if spikes is not None else 0)
        self.interrupted = self._stop = False

    def complete(self, report: Report, status: Status = lambda line: None) -> bool:
        """`resume` and `run`, with the folder for this process alone. `status` gets a line about
        where it goes on. Raises UsageError if another process trains in the folder."""
        with claimed(self.settings.out):
            if self.resume():
                status(f"resuming after step {self.step}")
            return self.run(report)

    def resume(self) -> bool:
        """Continue from the newest intact checkpoint, if there is one.

        Metrics past it are dropped: they will be written again. Raises CheckpointError for a
        folder of another run, or of one that is further than the schedule goes.
        """
        restored = self._folder.restore(self._training)
        if restored is None:
            self._log.clear()
            return False
        self._load(restored)
        steps = self.settings.schedule.steps
        if self.step > steps:
            raise CheckpointError(
                f"{self.settings.out} holds a run after step {self.step}, which has {steps} here",
                "ask for more steps, or choose another folder",
            )
        self._log.rewind(self.step, self.recoveries)
        return True

    def run(self, report: Report = lambda record: None) -> bool:
        """Train to the end of the schedule; False if a signal or the time limit ended it early.

        Calls `report` with every record. SIGINT and SIGTERM finish the step under way, save and
        return; a second SIGINT is an ordinary KeyboardInterrupt. Raises TrainingError if the loss
        is not a number and nothing can be done about it.
        """
        settings, began = self.settings, time.monotonic()
        if self._spikes is not None and self.step == 0:
            self.save()  # a spike may come before the next one
        with self._signals():
            while self.step < settings.schedule.steps and not self._stop:
                record = self._train_step()
                if "event" not in record:
                    last = self.step == settings.schedule.steps
                    if self.step % settings.eval_every == 0 or last:
                        record |= self.validate()
                    self._log.write(record)
                report(record)
                limit = settings.max_minutes
                self._stop |= limit is not None and time.monotonic() - began > 60 * limit
                self._stop = parallel.any_of(self._stop)
                if self._stop or self.step % settings.checkpoint_every == 0:
                    self.save()
        finished = self.step == settings.schedule.steps
        if finished:
            self.save()
        return finished

    def save(self) -> Path:
        """Write a checkpoint of the present step."""
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "position": asdict(self.position),
            "recoveries": self.recoveries,
            "anticipating": self._fetching.until,
            "regime": self._spikes.regime if self._spikes is not None else "",
            "losses": self._spikes.losses if self._spikes is not None else [],
        }
        regular = self.step % self.settings.checkpoint_every == 0
        return self._folder.save(self._training, state, self._fetching.state(), regular=regular)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The objective's held-out metrics, with the weights a user would get."""
        with self._rounded():
            return self.objective.validate()

    def _train_step(self) -> Record:
        """One optimizer step, or the recovery from one that went wrong."""
        began, step = time.monotonic(), self.step
        for name, parameter in self._trained.items():
            parameter.requires_grad_(self.objective.trains(name, step))
        detailed = (step + 1) % DETAILS_EVERY == 0
        with self._rounded(), contextlib.ExitStack() as stack:
            fetched = self._fetching.fetch(self.position, step)
            peaks = stack.enter_context(largest_activations(self.model)) if detailed else {}
            done = self._differentiate(fetched)
        complete(self._trained)
        norm = clip(self._trained, self.settings.clip)
        measured = means(done)
        if self._is_spike(measured.get("loss"), norm):
            return self._recover(measured.get("loss"), norm)
        rate = self.settings.schedule.rate(step)
        self.optimizer.step(rate)
        load = sum_loads(done)
        move_biases(self._biases, load, self.settings.bias_speed)
        self.step, self.position = step + 1, fetched.position
        tokens = int(parallel.add(torch.tensor(sum(loss.tokens for loss in done))))
        self.tokens += tokens
        seconds = time.monotonic() - began
        busiest = overload(load)
        record: Record = {
            "step": self.step,
            "tokens": self.tokens,
            **measured,
            "overload": max(busiest.values(), default=1.0),
            "lr": rate,
            "grad_norm": norm,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
        }
        regime = self.objective.regime(step)
        if regime:
            record["regime"] = regime
        if detailed:
            record["max_activation"] = {str(layer): float(x) for layer, x in peaks.items()}
            record["layer_overload"] = {str(layer): x for layer, x in busiest.items()}
        return record

    def _differentiate(self, fetched: Fetched) -> list[Loss]:
        """Gradients of this process's micro-batches; a process without one repeats the last."""
        done: list[Loss] = []
        batches, processes = fetched.batches, parallel.size()
        for first in range(0, len(batches), processes):
            number = first + parallel.rank()
            counts = number < len(batches)
            number = min(number, len(batches) - 1)
            with contextlib.ExitStack() as stack:
                if fetched.routes:
                    stack.enter_context(given_routing(self.model, fetched.routes[number]))
                loss = self.objective.loss(batches[number], batches, self.step)
                # Divided gradients are averaged over the processes; they are to be summed.
                (loss.total * (processes if counts else 0)).backward()
            done.append(loss if counts else loss.nothing())
        return done

    def _is_spike(self, loss: float | None, norm: float) -> bool:
        """Whether the step under way is to be undone, by its loss and the norm of its gradients."""
        finite = math.isfinite(norm) and (loss is None or math.isfinite(loss))
        if self._spikes is not None and self.step >= self._fetching.until:
            if loss is None or not finite:
                return not finite
            regime = self.objective.regime(self.step)
            return self._spikes.is_spike(loss, f"{regime}{', rounded' if self._rounds() else ''}")
        if not finite:
            raise TrainingError(
                f"step {self.step + 1}: the loss is {loss}, the norm of its gradients {norm}",
                "lower the learning rate or lengthen its warm-up",
            )
        return False

    def _recover(self, loss: float | None, norm: float) -> Record:
        """Back to the last regular checkpoint, and on from there with routing by older weights."""
        assert self._spikes is not None
        at, recoveries = self.step + 1, self.recoveries + 1
        for parameter in self._trained.values():
            parameter.grad = None
        restored = self._folder.restore(self._training, regular=True)
        if restored is None:
            raise TrainingError("there is no checkpoint to go back to", "start the run anew")
        self._load(restored)
        self.recoveries = recoveries
        self._fetching.start(at + self._spikes.settings.steps)
        self._spikes.losses = []
        self._folder.drop_after(self.step)
        dropped = self._log.rewind(self.step, recoveries)
        event: Record = {
            "event": "spike",
            "step": self.step,
            "recoveries": recoveries,
            "at": at,
            "loss": loss if loss is None or math.isfinite(loss) else str(loss),
            "grad_norm": norm if math.isfinite(norm) else str(norm),
            "losses_before": [record["loss"] for record in dropped if "loss" in record],
        }
        self._log.write(event)
        self.save()
        return event

    def _load(self, restored: Restored) -> None:
        """Take over the numbers of a checkpoint whose tensors are in place."""
        state = restored.state
        self.step, self.tokens = state["step"], state["tokens"]
        self.position, self.recoveries = Position(**state["position"]), state["recoveries"]
        self._fetching.restore(restored.routes, self.position, self.step, state["anticipating"])
        if self._spikes is not None:
            self._spikes.regime, self._spikes.losses = state["regime"], state["losses"]

    def _rounds(self) -> bool:
        share = self.settings.quantise_from
        return share < 1 and self.step >= share * self.settings.schedule.steps

    def _rounded(self) -> contextlib.AbstractContextManager[None]:
        active = self._rounds()
        return rounded_weights(self.model, self._formats) if active else contextlib.nullcontext()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            if self.interrupted and number == signal.SIGINT:
                raise KeyboardInterrupt
            if not self.interrupted:
                logger.warning("stopping after the step under way; Ctrl-C again stops at once")
            self.interrupted = self._stop = True

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def _router_biases(
    model: nn.Module, config: ModelConfig, frozen: tuple[str, ...]
) -> dict[int, Tensor]:
    """Layer number -> selection bias that is to be moved; the MTP block counts as the layer after
    the last."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    found = {}
    for name, tensor in named.items():
        if name.endswith("ffn.gate.bias") and not is_frozen(name, frozen):
            where, number = name.split(".")[:2]
            found[int(number) + (config.num_hidden_layers if where == "mtp" else 0)] = tensor
    return found
