"""Settings of a pre-training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dsv4.config import ModelConfig
from dsv4.data.corpora import Source
from dsv4.training.schedule import Schedule

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """One run. Two runs with equal settings give equal numbers on one machine.

    model: architecture to train from scratch. sources, corpora: the mix, and the folder its
    files are in. out: run folder (tokenizer, shards, checkpoints, metrics.jsonl).
    tokenizer: a tokenizer.json to use; None trains one of the model's vocabulary on the mix.
    batch_tokens: rows x positions of a micro-batch. max_length: longest row; longer documents
    are cut. heldout: sources for the validation loss, measured every eval_every steps on
    eval_batches micro-batches.
    bias_speed: how far an expert's selection bias moves per step; V4's 0.001 suits runs of many
    thousand steps.
    precision: `bfloat16` computes matrix products in bfloat16 with compiled ops (`ops/compiled`);
    only worth it where the processor does so natively.
    dense: attend to all compressed entries, as V4 does at short lengths before its indexer is
    trained, instead of the indexer's choice. indexer_steps: steps of indexer warm-up after a
    dense run, with everything else frozen.
    quantise_from: share of the run after which the forward pass sees weights as the released
    formats round them (1: never).
    checkpoint_minutes: wall time between checkpoints. max_minutes: stop (with a checkpoint) when
    this much time is spent; the learning rate follows steps, never time.
    """

    model: ModelConfig
    sources: tuple[Source, ...]
    corpora: Path
    out: Path
    schedule: Schedule
    tokenizer: Path | None = None
    batch_tokens: int = 8192
    max_length: int = 512
    seed: int = 0
    weight_decay: float = 0.1
    clip: float = 1.0
    bias_speed: float = 1e-3
    precision: Precision = "float32"
    dense: bool = True
    indexer_steps: int = 0
    quantise_from: float = 1.0
    heldout: tuple[Source, ...] = ()
    heldout_folder: Path | None = None
    eval_every: int = 100
    eval_batches: int = 8
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None
