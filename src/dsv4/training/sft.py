"""Supervised fine-tuning: a released model learns to write what assistants write.

The language objective over conversations, infills and texts with their loss masks (see
`data/documents`): of a conversation only what the assistant says is learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from dsv4 import checkpoint, parallel
from dsv4.data.batches import Batches, Mix
from dsv4.data.corpora import Source
from dsv4.data.shards import Shard, build_shards, digest
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import CheckpointError, UsageError
from dsv4.training.config import RunConfig
from dsv4.training.initial import initial_model
from dsv4.training.metrics import Report, Status
from dsv4.training.pretrain import Trained, train_on
from dsv4.training.vocabulary import take_tokenizer


@dataclass(frozen=True, kw_only=True)
class SftConfig(RunConfig):
    """A fine-tuning run.

    init: folder of the model it starts from, with its tokenizer.json. sources, corpora: the mix,
    and the folder its files are in. epochs: passes over the mix; the schedule's `steps` are taken
    from it. None: the schedule says. heldout: sources for the validation loss, which is that of
    the learned tokens too.
    """

    init: Path
    sources: tuple[Source, ...]
    corpora: Path
    epochs: float | None = 2.0
    heldout: tuple[Source, ...] = ()
    quantise_from: float = 0.0


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to begin: its settings with the steps filled in, and its documents."""

    config: SftConfig
    mix: Mix
    heldout: tuple[Shard, ...]


def prepare(config: SftConfig, status: Status = lambda line: None) -> Prepared:
    """Tokenise the documents and count the steps.

    Raises DataError for unreadable files, CheckpointError if `init` has no vocabulary, UsageError
    if no token is to be learned or the folder holds a run with another tokenizer.
    """
    model = checkpoint.read_config(config.init)
    given = config.init / "tokenizer.json"
    if not given.is_file():
        raise CheckpointError(f"{config.init} has no tokenizer.json", "copy it there")
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "tokenizer.json"
    with parallel.in_turn():
        take_tokenizer(given, config.out)
    tokenizer = Tokenizer.from_file(path)

    def shards(sources: tuple[Source, ...], name: str) -> tuple[Shard, ...]:
        status(f"tokenising {name}")
        with parallel.in_turn():
            made = build_shards(
                sources,
                config.corpora,
                tokenizer,
                model.vocab_size,
                config.out / name,
                version=digest(path),
                progress=lambda source, count: status(f"{name}: {source}, {count} documents"),
            )
        return tuple(made)

    mix = Mix(
        shards(config.sources, "shards"),
        tuple(source.epochs for source in config.sources),
        masked=True,
    )
    if not any(shard.mask(0, len(shard.tokens)).any() for shard in mix.shards):
        raise UsageError("no document has anything to learn", "conversations need assistant turns")
    if config.epochs is not None:
        if not 0 < config.epochs < math.inf:
            raise UsageError(f"{config.epochs:g} passes over the documents", "such as 2")
        batches = Batches(
            mix, batch_tokens=config.batch_tokens, max_length=config.max_length, seed=config.seed
        )
        wanted = config.epochs * batches.per_epoch() / config.schedule.accumulate
        steps = max(1, math.ceil(wanted))
        warmup = min(config.schedule.warmup, steps)
        config = replace(config, schedule=replace(config.schedule, steps=steps, warmup=warmup))
    return Prepared(config, mix, shards(config.heldout, "heldout"))


def fine_tune(
    prepared: Prepared,
    *,
    report: Report = lambda record: None,
    status: Status = lambda line: None,
) -> Trained:
    """Run (or resume) fine-tuning in `config.out`; returns the model as far as it got.

    `report` gets every metrics record, `status` a line about what is being done.
    """
    config = prepared.config
    architecture = checkpoint.read_config(config.init)
    settle = config.quantise_from == 0
    model = initial_model(architecture, config.init, config.seed, status, settle=settle)
    return train_on(model, prepared.mix, prepared.heldout, config, report, status)
