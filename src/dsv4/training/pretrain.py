"""Pre-training from corpora to a trained model: tokenizer, shards, loop."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from dsv4.data.batches import Batch, Batches, Mix, Position
from dsv4.data.corpora import Source, read
from dsv4.data.shards import Shard, build_shards, digest
from dsv4.data.tokenizer import train_tokenizer
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.model.attention import Attention
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.ops.compiled import compiled_ops
from dsv4.training.config import TrainConfig
from dsv4.training.indexer import train_indexers
from dsv4.training.language import LanguageObjective
from dsv4.training.loop import LoopSettings, Report, Trainer
from dsv4.training.schedule import Schedule

Status = Callable[[str], None]
"""Called with one line about what is being prepared."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a call of `train` leaves: the model after `step` steps, all of them if `finished`."""

    model: Transformer
    step: int
    finished: bool


def train(
    config: TrainConfig,
    *,
    report: Report = lambda record: None,
    status: Status = lambda line: None,
) -> Trained:
    """Run (or resume) pre-training in `config.out`; returns the model as far as it got.

    `report` gets every metrics record, `status` a line per step of the preparation. Raises
    DataError for unreadable corpora, CheckpointError for a damaged run folder, UsageError if the
    tokenizer has more tokens than the model.
    """
    tokenizer_path = prepare_tokenizer(config, status)
    tokenizer = Tokenizer.from_file(tokenizer_path)

    def shards(sources: tuple[Source, ...], corpora: Path, name: str) -> tuple[Shard, ...]:
        status(f"tokenising {name}")
        return tuple(
            build_shards(
                sources,
                corpora,
                tokenizer,
                config.model.vocab_size,
                config.out / name,
                version=digest(tokenizer_path),
                progress=lambda source, count: status(f"{name}: {source}, {count} documents"),
            )
        )

    mix = Mix(
        shards(config.sources, config.corpora, "shards"),
        tuple(source.epochs for source in config.sources),
    )
    sizes = {"batch_tokens": config.batch_tokens, "max_length": config.max_length}
    batches = Batches(mix, seed=config.seed, **sizes)
    validation: tuple[Batch, ...] = ()
    if config.heldout:
        held = shards(config.heldout, config.heldout_folder or config.corpora, "heldout")
        fixed = Batches(Mix(held, (1.0,) * len(held)), seed=0, **sizes)
        count = min(config.eval_batches, fixed.per_epoch())
        validation = tuple(fixed[Position(0, i)] for i in range(count))
    settings = LoopSettings(
        out=config.out,
        schedule=config.schedule,
        clip=config.clip,
        bias_speed=config.bias_speed,
        weight_decay=config.weight_decay,
        quantise_from=config.quantise_from,
        muon_dtype=torch.bfloat16 if config.precision == "bfloat16" else torch.float32,
        eval_every=config.eval_every,
        checkpoint_minutes=config.checkpoint_minutes,
        max_minutes=config.max_minutes,
    )
    model = Transformer(config.model)
    init_weights(model, config.seed)
    with _training_form(model, config):
        objective = LanguageObjective(model, config.model, batches, config.schedule, validation)
        trainer = Trainer(model, config.model, objective, settings)
        if trainer.resume():
            status(f"resuming after step {trainer.step}")
        finished = trainer.run(report)
        if finished and config.indexer_steps and config.dense:
            status("training the indexers")
            plan = Schedule(config.indexer_steps, lr=config.schedule.lr, warmup=10, decay=0.5)
            train_indexers(model, batches, plan, _indexer_lines(status))
    return Trained(model, trainer.step, finished)


def prepare_tokenizer(config: TrainConfig, status: Status = lambda line: None) -> Path:
    """The run's tokenizer.json: given, already there, or trained on the mix now."""
    path = config.out / "tokenizer.json"
    if not path.is_file():
        config.out.mkdir(parents=True, exist_ok=True)
        if config.tokenizer is not None:
            shutil.copyfile(config.tokenizer, path)
        else:
            status("training the tokenizer")
            texts = (doc for source in config.sources for doc in read(source, config.corpora))
            train_tokenizer(texts, config.model.vocab_size, path)
    size = Tokenizer.from_file(path).vocab_size
    if size > config.model.vocab_size:
        raise UsageError(
            f"{path} has {size} tokens, the model {config.model.vocab_size}",
            "train a tokenizer of the model's size, or choose another preset",
        )
    return path


def _indexer_lines(status: Status) -> Report:
    """A report that says every tenth step of the indexers in a line."""

    def report(record: dict[str, Any]) -> None:
        if record["indexer_step"] % 10 == 0:
            status(f"indexer step {record['indexer_step']}: loss {record['indexer_loss']:.4f}")

    return report


@contextlib.contextmanager
def _training_form(model: Transformer, config: TrainConfig) -> Iterator[None]:
    """Bind the ops of the chosen precision and, if dense, leave the indexers out."""
    attentions = [cast(Attention, layer.attn) for layer in model.layers]
    indexers = [a.indexer for a in attentions if a.indexer is not None]
    numerics = model.numerics
    with contextlib.ExitStack() as stack:
        if config.precision == "bfloat16":
            model.numerics = stack.enter_context(compiled_ops())
        if config.dense:
            for indexer in indexers:
                indexer.__dict__["forward"] = _read_everything
        try:
            yield
        finally:
            model.numerics = numerics
            for indexer in indexers:
                indexer.__dict__.pop("forward", None)


def _read_everything(*args: object) -> None:
    """An indexer that selects nothing: every compressed entry is read."""
