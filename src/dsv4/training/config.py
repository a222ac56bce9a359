"""Settings of training runs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from dsv4.config import ModelConfig
from dsv4.data.corpora import Source
from dsv4.training.checkpoint import PIECE_BYTES
from dsv4.training.loop import LoopSettings
from dsv4.training.optimizer import OptimizerSettings
from dsv4.training.precision import Precision, muon_dtype
from dsv4.training.schedule import Schedule
from dsv4.training.spikes import SpikeSettings


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run over documents has. Equal settings give equal numbers on one machine.

    out: run folder (tokenizer, shards, checkpoints, metrics.jsonl).
    batch_tokens: rows x positions of a micro-batch. max_length: longest row in the end; longer
    documents are cut.
    precision: `float32-compiled` computes with compiled ops (`ops/compiled`), `bfloat16` besides
    with products in bfloat16, only worth it where the processor does so natively.
    frozen: parts of names; weights that have one of them in theirs stay as they are, such as
    `engram.embed`, of whose rows a short run meets few.
    device: where the model is, `cpu` or `cuda`. recompute: keep only what enters each layer for
    the backward pass and compute the layer again: less memory, a third more work.
    The others are those of `LoopSettings`, which also says what they mean.
    """

    out: Path
    schedule: Schedule
    batch_tokens: int = 8192
    max_length: int = 512
    seed: int = 0
    precision: Precision = "float32"
    device: str = "cpu"
    recompute: bool = False
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    clip: float = 1.0
    bias_speed: float = 1e-3
    frozen: tuple[str, ...] = ()
    quantise_from: float = 1.0
    eval_every: int = 100
    eval_batches: int = 8
    checkpoint_every: int = 50
    piece_bytes: int = PIECE_BYTES
    max_minutes: float | None = None
    spikes: SpikeSettings | None = None

    def loop(self) -> LoopSettings:
        """The part of the settings that the loop reads."""
        shared = {f.name: getattr(self, f.name) for f in fields(LoopSettings)}
        optimizer = replace(self.optimizer, muon_dtype=muon_dtype(self.precision))
        return LoopSettings(**shared | {"optimizer": optimizer})


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A pre-training run.

    model: architecture. init: folder whose weights it starts from (a model folder, or a checkpoint
    of another run); None: random ones. sources, corpora: the mix, and the folder its files are in.
    tokenizer: a tokenizer.json to use; None takes that of `init`, or trains one of the model's
    vocabulary on the mix, whose tokens hold at most `digits` digits (V4: 3; with 1 a small model
    learns sums sooner).
    heldout: sources for the validation loss, measured every eval_every steps on eval_batches
    micro-batches; heldout_folder: where their files are, if not in `corpora`.
    """

    model: ModelConfig
    sources: tuple[Source, ...]
    corpora: Path
    init: Path | None = None
    tokenizer: Path | None = None
    digits: int = 3
    heldout: tuple[Source, ...] = ()
    heldout_folder: Path | None = None
    spikes: SpikeSettings | None = field(default_factory=SpikeSettings)
