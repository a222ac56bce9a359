"""Checkpoints of a run in progress: written whole or not at all, and checked when they are read.

A checkpoint `step-0000100` holds `weights-*`, `optimizer-*`, `objective-*` and
`routes-*.safetensors` (see `pieces`) and `state.json`, which names every file with its checksum.
`step-0000100-r1` is the same step after the first recovery from a spike.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsv4 import parallel
from dsv4.engram import EngramConfig, from_json
from dsv4.errors import CheckpointError
from dsv4.training import pieces
from dsv4.training.objective import Objective
from dsv4.training.optimizer import Optimizer
from dsv4.training.origin import hashes

logger = logging.getLogger("dsv4.training")

PIECE_BYTES = 1 << 30
_NAME = re.compile(r"step-(\d+)(?:-r(\d+))?")
_KEEP = 2


@dataclass(frozen=True)
class Training:
    """Everything of a run that a checkpoint holds as tensors.

    Weights are the parameters that were to be trained when this was made, and all buffers and
    parameters moved otherwise (router biases): frozen weights come from where they came from.
    origin: digest of the weights that the run began with (`training/origin.py`).
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective[Any]
    trained: frozenset[str]
    origin: str

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of what is saved of the model."""
        for name, parameter in self.model.named_parameters():
            if name in self.trained or name.endswith("gate.bias"):
                yield name, parameter
        yield from self.model.named_buffers()


@dataclass(frozen=True)
class Restored:
    """What is not put back by `Folder.restore` itself: the JSON state, and the routes of steps
    that were fetched ahead (`anticipation`)."""

    state: dict[str, Any]
    routes: dict[str, Tensor]


class Folder:
    """The checkpoints of a run. Regular ones come at fixed steps, others when a run stops."""

    def __init__(self, path: Path, piece_bytes: int = PIECE_BYTES) -> None:
        """piece_bytes: the most tensor data of a file."""
        self._path, self._piece_bytes = path, piece_bytes

    def all(self) -> list[Path]:
        """The complete checkpoints in the order of their steps, then of recoveries."""
        found = (path for path in self._path.glob("step-*") if path.is_dir())
        return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_order)

    def save(
        self,
        training: Training,
        state: Mapping[str, Any],
        routes: Mapping[str, Tensor],
        *,
        regular: bool,
    ) -> Path:
        """Write a checkpoint of step `state["step"]`; every process has to ask.

        Drops older ones, but the newest two regular ones and the newest of all.
        """
        suffix = f"-r{state['recoveries']}" if state.get("recoveries") else ""
        final = self._path / f"step-{state['step']:07d}{suffix}"
        part = final.with_name(f"{final.name}.part")
        writes = parallel.rank() == 0
        if final.exists():  # the same step of the same run
            return final
        if writes:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        files: pieces.Checksums = {}
        for kind, tensors in (_kinds(training) | {"routes": routes.items()}).items():
            wholes = ((name, parallel.whole(tensor)) for name, tensor in tensors)
            if writes:
                files |= pieces.write(part, kind, wholes, self._piece_bytes)
            else:
                for _ in wholes:
                    pass
        if writes:
            facts = {"origin": training.origin, "engram": hashes(training.model)}
            with (part / "state.json").open("w", encoding="utf-8") as file:
                whole = {**state, **facts, "regular": regular, "files": files}
                json.dump(whole, file, indent=1)
            pieces.sync(part / "state.json")
            pieces.sync(part)
            os.replace(part, final)
            pieces.sync(self._path)
            self._prune()
        parallel.wait()
        return final

    def restore(self, training: Training, *, regular: bool = False) -> Restored | None:
        """Load the newest intact checkpoint; None if there is none.

        regular: of the regular ones. A damaged one is set aside with a warning, and the one
        before it is taken. Raises CheckpointError if all are damaged, or one is of another model
        or of a run that began with other weights.
        """
        if parallel.rank() == 0:
            for part in self._path.glob("step-*.part"):  # of a process that was killed
                shutil.rmtree(part)
        for path in reversed(self.all()):
            try:
                state = _state(path)
                if regular and not state["regular"]:
                    continue
                kinds = (*_kinds(training), "routes")
                tensors = {kind: pieces.read(path, kind, state["files"]) for kind in kinds}
            except (FileNotFoundError, ValueError, KeyError, CheckpointError) as error:
                logger.warning("%s can not be read (%s); going back to the one before", path, error)
                parallel.wait()
                if parallel.rank() == 0:
                    _set_aside(path)
                parallel.wait()
                continue
            _put_back(path, training, state, tensors)
            return Restored(state, tensors["routes"])
        if any(self._path.glob("step-*.damaged")):
            hint = f"{self._path} holds what is left of them; start in another folder"
            raise CheckpointError("every checkpoint of this run is damaged", hint)
        return None

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints beyond a step that the run went back to; every process has to
        ask."""
        parallel.wait()
        if parallel.rank() == 0:
            for path in self.all():
                if _order(path)[0] > step:
                    shutil.rmtree(path)

    def _prune(self) -> None:
        every = self.all()
        regular = [path for path in every if _is_regular(path)]
        kept = {*regular[-_KEEP:], every[-1]}
        for path in every:
            if path not in kept:
                shutil.rmtree(path)


def _kinds(training: Training) -> dict[str, Iterable[tuple[str, Tensor]]]:
    """What the files of a checkpoint hold."""
    extra = {"torch_rng": torch.get_rng_state()}
    return {
        "weights": training.weights(),
        "optimizer": training.optimizer.state().items(),
        "objective": (training.objective.state() | extra).items(),
    }


def _put_back(
    path: Path,
    training: Training,
    state: Mapping[str, Any],
    tensors: dict[str, dict[str, Tensor]],
) -> None:
    # Earlier versions did not say it; processes after the first have other parts of the weights.
    began_elsewhere = state.get("origin", training.origin) != training.origin
    if parallel.any_of(began_elsewhere and parallel.rank() == 0):
        raise CheckpointError(
            f"{path} is of a run that began with other weights",
            "the folder belongs to a run from another model or seed, or with other adapters (rank, "
            "alpha, targets); choose another one",
        )
    own_hashes = hashes(training.model)
    if state.get("engram", own_hashes) != own_hashes:
        raise CheckpointError(
            f"{path} is of a run whose Engram hashes otherwise",
            "with these settings every n-gram would find what another one has stored",
        )
    own, saved = dict(training.weights()), tensors["weights"]
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in saved.items()}:
        odd = sorted(set(own) ^ set(saved)) or [n for n in own if own[n].shape != saved[n].shape]
        raise CheckpointError(
            f"{path} holds the weights of another model: {', '.join(odd[:3])}",
            "the folder belongs to a run with other settings; choose another one",
        )
    for name, tensor in own.items():
        parallel.keep(tensor, saved[name])
    training.optimizer.restore(tensors["optimizer"])
    torch.set_rng_state(tensors["objective"].pop("torch_rng"))
    training.objective.restore(tensors["objective"])


def _state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def _order(path: Path) -> tuple[int, int]:
    """Step and recoveries of a checkpoint, by its name."""
    name = _NAME.fullmatch(path.name)
    assert name is not None, path
    return int(name[1]), int(name[2] or 0)


def _set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, in the place of one that was set aside before."""
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)


def _is_regular(path: Path) -> bool:
    try:
        return bool(_state(path)["regular"])
    except (OSError, ValueError, KeyError):
        return False


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint of a run."""
    return (path / "state.json").is_file()


def read_engram(path: Path) -> EngramConfig | None:
    """The Engram of a checkpoint's model. None without one, and where an earlier version did not
    write it down."""
    try:
        known = _state(path).get("engram")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}", "take the checkpoint before it") from error
    return from_json(known) if known is not None else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by name. Raises CheckpointError if it is damaged."""
    try:
        return pieces.read(path, "weights", _state(path)["files"])
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}", "take the checkpoint before it") from error
