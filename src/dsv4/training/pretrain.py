"""Pre-training from corpora to a trained model: tokenizer, shards, loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsv4 import parallel
from dsv4.data.batches import Batch, Batches, Mix, Position
from dsv4.data.corpora import Source, read
from dsv4.data.shards import Shard, build_shards, digest
from dsv4.data.tokenizer import train_tokenizer
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.model.retrofit import fit_engram
from dsv4.model.transformer import Transformer
from dsv4.training.config import RunConfig, TrainConfig
from dsv4.training.frozen import freeze
from dsv4.training.initial import inherited, initial_model
from dsv4.training.language import LanguageObjective, Stream
from dsv4.training.loop import Trainer
from dsv4.training.metrics import Report, Status
from dsv4.training.objective import Objective
from dsv4.training.precision import training_form
from dsv4.training.vocabulary import take_tokenizer


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run leaves: the model after `step` steps, all of them if `finished`. interrupted: by
    a signal."""

    model: Transformer
    step: int
    finished: bool
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to begin: the architecture fitted to the tokenizer, and its documents.

    canonical: the canonical id of every token, for an Engram; empty without one.
    """

    config: TrainConfig
    mix: Mix
    heldout: tuple[Shard, ...]
    canonical: list[int]


def prepare(config: TrainConfig, status: Status = lambda line: None) -> Prepared:
    """Make (or find) the tokenizer and the token shards in `config.out`.

    `status` gets a line per step. Raises DataError for unreadable corpora, UsageError if the
    tokenizer has more tokens than the model.
    """
    tokenizer_path = prepare_tokenizer(config, status)
    tokenizer = Tokenizer.from_file(tokenizer_path)
    canonical = tokenizer.canonical_ids(config.model.vocab_size) if config.model.engram else []

    def shards(sources: tuple[Source, ...], corpora: Path, name: str) -> tuple[Shard, ...]:
        status(f"tokenising {name}")
        with parallel.in_turn():
            made = build_shards(
                sources,
                corpora,
                tokenizer,
                config.model.vocab_size,
                config.out / name,
                version=digest(tokenizer_path),
                progress=lambda source, count: status(f"{name}: {source}, {count} documents"),
            )
        return tuple(made)

    mix = Mix(
        shards(config.sources, config.corpora, "shards"),
        tuple(source.epochs for source in config.sources),
    )
    held = shards(config.heldout, config.heldout_folder or config.corpora, "heldout")
    fitted = inherited(config.model, config.init) or fit_engram(config.model, canonical)
    return Prepared(replace(config, model=fitted), mix, held, canonical)


def train(
    config: TrainConfig,
    *,
    report: Report = lambda record: None,
    status: Status = lambda line: None,
) -> Trained:
    """Run (or resume) pre-training in `config.out`; returns the model as far as it got.

    `report` gets every metrics record, `status` a line per step of the preparation. Raises what
    `prepare` does, and CheckpointError for a damaged run folder.
    """
    prepared = prepare(config, status)
    config = prepared.config
    canonical = prepared.canonical
    model = initial_model(config.model, config.init, config.seed, status, canonical=canonical)
    return train_on(model, prepared.mix, prepared.heldout, config, report, status)


def train_on(
    model: Transformer,
    mix: Mix,
    heldout: Sequence[Shard],
    config: RunConfig,
    report: Report,
    status: Status,
) -> Trained:
    """Run (or resume) the language objective over a mix.

    In one process the model is trained in place. In several (`parallel.joined`) it is divided
    between them, and what is returned is another, whole one.
    """
    freeze(model, config.frozen)
    sizes = {"batch_tokens": config.batch_tokens, "max_length": config.max_length}
    stream = Stream(mix, config.schedule, seed=config.seed, **sizes)
    validation: tuple[Batch, ...] = ()
    if heldout:
        held = Mix(tuple(heldout), (1.0,) * len(heldout), mix.masked)
        fixed = Batches(held, seed=0, **sizes)
        count = min(config.eval_batches, fixed.per_epoch())
        validation = tuple(fixed[Position(0, i)] for i in range(count))
    form = training_form(model, config.precision, device=config.device, recompute=config.recompute)
    with form:
        objective: Objective[Batch] = LanguageObjective(
            model, model.config, stream, config.schedule, validation
        )
        divided = None
        if not parallel.alone():
            # Here, for FSDP takes as long to import as half of torch.
            from dsv4.parallel.sharding import Divided
            from dsv4.training.divided import DividedObjective

            _check_divisible(config)
            divided = Divided(model)
            objective = DividedObjective(objective, divided)
        trainer = Trainer(model, model.config, objective, config.loop())
        finished = trainer.complete(report, status)
        if divided is not None:
            model = divided.gathered()
    return Trained(model, trainer.step, finished, trainer.interrupted)


def _check_divisible(config: RunConfig) -> None:
    """Raise UsageError for what several processes can not do together."""
    schedule, apart = config.schedule, "make it a run of its own and go on from it with `init`"
    if schedule.indexer_steps or 0 < schedule.dense < 1:
        raise UsageError("phases of the indexer need a run of one process", apart)
    if config.quantise_from < 1:
        raise UsageError("rounded weights need a run of one process", apart)
    if config.optimizer.tables == "balanced":
        raise UsageError("balanced momentum needs a run of one process", "use `adam` for tables")


def prepare_tokenizer(config: TrainConfig, status: Status = lambda line: None) -> Path:
    """The run's tokenizer.json: given, already there, that of `init`, or trained on the mix now.

    Raises UsageError if it has more tokens than the model, or is another than the run began with.
    """
    path = config.out / "tokenizer.json"
    given = None if config.tokenizer is None else Path(config.tokenizer)
    if given is None and config.init is not None and not path.is_file():
        given = config.init / "tokenizer.json"
    with parallel.in_turn():
        if given is not None:
            if not given.is_file():
                raise UsageError(f"no tokenizer at {given}", "name the tokenizer.json to use")
            _check_size(given, config)
            take_tokenizer(given, config.out)
        elif not path.is_file():
            _train_tokenizer(config, path, status)
    _check_size(path, config)
    return path


def _check_size(path: Path, config: TrainConfig) -> None:
    size = Tokenizer.from_file(path).vocab_size
    if size > config.model.vocab_size:
        raise UsageError(
            f"{path} has {size} tokens, the model {config.model.vocab_size}",
            "train a tokenizer of the model's size, or choose another preset",
        )


def _train_tokenizer(config: TrainConfig, path: Path, status: Status) -> None:
    status("training the tokenizer")
    texts = (doc for source in config.sources for doc in read(source, config.corpora))
    train_tokenizer(texts, config.model.vocab_size, path, digits=config.digits)
