"""From text to the bundled model, stage by stage; nano_cpu.py and nano_gpu.py give the sizes.

    pretrain   all tokens of the mix, the memory (Engram) and every expert included
    tune       conversations, thinking, tool calls, texts: of conversations only what the
               assistant says; weights are already rounded as the released formats round them;
               the rate falls to nothing and the indexers learn what to read
    copy-1     from tune: names and values never seen before, to be written exactly
    copy-2     the same in another order
    copy       from the mean of both: the same, and the rate falls to nothing
    reason     from copy, a specialist: sums and word problems, rewarded for right answers
    tools      from copy, a specialist: calls of tools, and answers from what they give
    distill    from copy, the model: it learns from both specialists and keeps the rest

Each leaves a model in the released layout in OUT/STAGE/model, which can be served and measured.
Every stage resumes where it stopped and is skipped when it is finished. copy-1 and copy-2 do not
need each other, nor do the specialists: `--stage` has them trained side by side.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from nano_mix import HELDOUT, copying, pretraining, tuning
from nano_practice import DISTILL, REASON, TOOLS, Practice, distil, specialise

from dsv4 import checkpoint
from dsv4.chat import defaults
from dsv4.config import ModelConfig
from dsv4.data.shards import build_shards, digest
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import Dsv4Error
from dsv4.training import Schedule, TrainConfig, train
from dsv4.training.policy import OPTIMIZER
from dsv4.training.precision import Precision
from dsv4.training.pretrain import Trained
from dsv4.training.pretrain import prepare as prepare_pretraining
from dsv4.training.sft import SftConfig, fine_tune, prepare

COPIES = ("copy-1", "copy-2")
PRECISIONS = get_args(Precision)
STAGES = ("pretrain", "tune", *COPIES, "copy", "reason", "tools", "distill")

COPY_LENGTH, COPY_TOKENS = 2048, 8192
"""Longest row (of runs that have such long ones) and positions of a step of the copies: small
enough for a processor core, long enough for an order of coffee, whose later calls would otherwise
be learned without its beginning."""

FROZEN = ("engram.embed", ".indexer.")
"""What the copies leave as it is, by parts of names."""

ANSWERS = {"thinking": False, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 400}
"""How the model answers unless asked otherwise: a small one rambles at temperature 1."""


@dataclass(frozen=True)
class Scale:
    """Sizes of a run. text: how much the mix is enlarged (`nano_mix`). batch_tokens, lengths
    (longest rows), device: of the first two stages; the others run on the CPU. checkpoint_every
    (steps): of all that read a mix."""

    model: ModelConfig
    text: float
    pretrain: Schedule
    tune: Schedule
    copies: Schedule
    copy: Schedule
    batch_tokens: int
    lengths: tuple[int, int]
    reason: Practice = REASON
    tools: Practice = TOOLS
    distill: Practice = DISTILL
    device: str = "cpu"
    checkpoint_every: int = 50


def main(scale: Scale, description: str) -> None:
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("out", type=Path, help="run folder; an interrupted run goes on")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16")
    parser.add_argument("--max-minutes", type=float, help="save and stop a stage after this long")
    parser.add_argument(
        "--prepare", action="store_true", help="tokenise for pretrain and tune, and stop"
    )
    parser.add_argument("--stage", choices=STAGES, help="only this one, after those it needs")
    args = parser.parse_args()
    try:
        _stages(scale, args)
    except Dsv4Error as error:
        parser.error(f"{error} ({error.hint})" if error.hint else str(error))


def _stages(scale: Scale, args: argparse.Namespace) -> None:
    """What the arguments ask for."""
    tokens = args.out / "pretrain" / "tokenizer.json"
    if args.prepare:
        prepare_pretraining(_texts(scale, args), print)
        _tokenise(_conversations(scale, args), scale.model.vocab_size, tokens)
        return

    for name in STAGES if args.stage is None else (args.stage,):
        _stage(args.out / name, tokens, functools.partial(_run, name, scale, args))


def _run(name: str, scale: Scale, args: argparse.Namespace) -> Trained:
    """A stage, as far as it gets."""
    if name == "pretrain":
        return train(_texts(scale, args), report=line, status=print)
    if name == "tune":
        return fine_tune(prepare(_conversations(scale, args), print), report=line, status=print)
    if name in COPIES:
        return _copy(name, scale, args)
    if name == "copy":
        runs = [finished(one, _copy(one, scale, args)) for one in COPIES]
        start = mean(runs, args.out / "pretrain" / "tokenizer.json", args.out / "copy" / "mean")
        config = replace(_copies(name, scale, args), init=start, schedule=scale.copy)
        return fine_tune(prepare(config, print), report=line, status=print)
    copied, out = args.out / "copy" / "model", args.out / name
    specialists = {"reason": scale.reason, "tools": scale.tools}
    if name in specialists:
        return specialise(specialists[name], copied, out, line, args.max_minutes)
    models = {args.out / own / "model": practice for own, practice in specialists.items()}
    return distil(scale.distill, copied, models, out, line, args.max_minutes)


def _texts(scale: Scale, args: argparse.Namespace) -> TrainConfig:
    out, heldout = args.out / "pretrain", args.corpora.parent / "eval"
    return TrainConfig(
        model=scale.model,
        sources=pretraining(scale.text),
        out=out,
        schedule=scale.pretrain,
        max_length=scale.lengths[0],
        digits=1,  # sums are learned digit by digit
        heldout=HELDOUT if heldout.is_dir() or (out / "heldout").is_dir() else (),
        heldout_folder=heldout,
        eval_batches=12,
        # A batch holds rows of one length, and lengths differ more than a spike would.
        spikes=None,
        **_common(scale, args),
    )


def _conversations(scale: Scale, args: argparse.Namespace) -> SftConfig:
    return SftConfig(
        init=args.out / "pretrain" / "model",
        sources=tuning(scale.text, scale.lengths[1]),
        out=args.out / "tune",
        schedule=scale.tune,
        max_length=scale.lengths[1],
        epochs=None,
        **_common(scale, args),
    )


def _copy(name: str, scale: Scale, args: argparse.Namespace) -> Trained:
    """A stage that copies are made of. One that is finished is read and gone on from."""
    return fine_tune(prepare(_copies(name, scale, args), print), report=line, status=print)


def _copies(name: str, scale: Scale, args: argparse.Namespace) -> SftConfig:
    """AdamW with its usual epsilon, tables, indexers and selection biases left as they are: what
    the model can do already is to suffer little."""
    length = min(COPY_LENGTH, scale.lengths[1])
    return SftConfig(
        init=args.out / "tune" / "model",
        sources=copying(scale.text, length),
        out=args.out / name,
        schedule=scale.copies,
        max_length=length,
        epochs=None,
        seed=STAGES.index(name),
        optimizer=OPTIMIZER,
        frozen=FROZEN,
        **_common(scale, args) | {"batch_tokens": COPY_TOKENS, "bias_speed": 0.0, "device": "cpu"},
    )


def finished(name: str, trained: Trained) -> Trained:
    """The run, if it came to its end. Otherwise the recipe stops here."""
    if not trained.finished:
        raise SystemExit(f"{name}: stopped after step {trained.step}; run again to go on")
    return trained


def mean(runs: list[Trained], tokens: Path, folder: Path) -> Path:
    """A folder with the mean of the weights of finished runs that began with the same ones (model
    soups, Wortsman et al. 2022). tokens: their tokenizer."""
    weights = [dict(run.model.named_parameters()) for run in runs]
    with torch.no_grad():
        for name, parameter in weights[0].items():
            parameter.copy_(torch.stack([own[name].detach() for own in weights]).mean(0))
    checkpoint.export_released(runs[0].model, folder, overwrite=True)
    shutil.copyfile(tokens, folder / "tokenizer.json")
    return folder


def _common(scale: Scale, args: argparse.Namespace) -> dict[str, Any]:
    """Settings of the stages that read the mix."""
    return {
        "corpora": args.corpora,
        "batch_tokens": scale.batch_tokens,
        "precision": args.precision,
        "device": scale.device,
        # V4's speed of 0.001 balances over trillions of tokens; a short run needs a faster one.
        "bias_speed": 0.01,
        "checkpoint_every": scale.checkpoint_every,
        "max_minutes": args.max_minutes,
    }


def _tokenise(config: SftConfig, vocabulary: int, path: Path) -> None:
    """The shards of a stage whose first model is not there yet, with the tokenizer at `path`."""
    build_shards(
        config.sources,
        config.corpora,
        Tokenizer.from_file(path),
        vocabulary,
        config.out / "shards",
        version=digest(path),
        progress=lambda source, count: print(f"tune: {source}, {count} documents"),
    )


def _stage(out: Path, tokens: Path, run: Callable[[], Trained]) -> None:
    """Run a stage and write its model to `out/model`, unless that is there. tokens: the
    tokenizer."""
    folder = out / "model"
    if (folder / "config.json").is_file():
        return
    trained = finished(out.name, run())
    checkpoint.export_released(trained.model, folder, overwrite=True)
    shutil.copyfile(tokens, folder / "tokenizer.json")
    defaults.write_defaults(folder, ANSWERS)


def line(record: dict[str, Any]) -> None:
    """Every tenth record, and those with a validation loss."""
    if record.get("step", 0) % 10 == 0 or "validation_loss" in record:
        print(json.dumps(record), flush=True)
