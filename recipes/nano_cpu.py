"""The recipe of the bundled model: everything from corpora to `models/nano`, on two CPU cores.

    python recipes/nano_cpu.py --corpora DIR --heldout DIR [--run DIR] [--out models/nano]

DIR holds the corpora named in `MIX` (see models/nano/README.md for where they come from);
`--heldout` holds texts that are not trained on. Interrupt it at any time; the same command
resumes. Without a processor that multiplies bfloat16 natively pass `--precision float32`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dsv4.checkpoint import export_released
from dsv4.config import preset
from dsv4.data.corpora import STANDARD_LIBRARY, Source
from dsv4.training import Schedule, TrainConfig, train
from dsv4.training.config import Precision
from dsv4.training.plot import plot_losses

LLAMA = "MIT (text generated with Llama 3.1)"
SYNTH = "synth_instruct/*.jsonl.xz"
MIX = (
    Source("tales", SYNTH, 1, LLAMA, ("child", "bedtime", "slice-of-life")),
    Source("campfire", SYNTH, 0.5, LLAMA, ("campfire", "stories")),
    Source("explained", SYNTH, 2, LLAMA, ("eli5", "explanations", "jokes", "howto")),
    Source("answers", SYNTH, 1, LLAMA, ("trivia", "song-poems", "spelling")),
    Source("arithmetic", SYNTH, 1, LLAMA, ("step-by-step-math",), keep=0.2),
    Source("children", "stories_pd_cc/children-ccby-*.jsonl.xz", 2, "CC-BY 4.0"),
    Source("smalltalk", "sft_extra/chatterbot_english.jsonl.xz", 3, "BSD-3-Clause"),
    Source("words", "facts/wordnet_definitions.jsonl.xz", 1, "CC-BY 4.0, WordNet", keep=0.05),
    Source("python_answers", SYNTH, 1, LLAMA, ("python",)),
    Source("python_tasks", "sft_extra/mbpp_train.jsonl.xz", 2, "CC-BY 4.0"),
    Source("python_library", STANDARD_LIBRARY, 1, "PSF-2.0", keep=0.3),
)
HELDOUT = (
    Source("tales", "heldout_snakes.jsonl.xz", 1, LLAMA, ("child", "bedtime", "slice-of-life")),
    Source("children", "heldout_children-ccby.jsonl.xz", 1, "CC-BY 4.0"),
)


def config(
    corpora: Path,
    out: Path,
    heldout: Path | None = None,
    *,
    steps: int = 600,
    lr: float = 5e-3,
    precision: Precision = "bfloat16",
    max_minutes: float | None = None,
) -> TrainConfig:
    """The settings of the run; also what `dsv4 train --recipe` reads."""
    return TrainConfig(
        model=preset("nano"),
        sources=MIX,
        corpora=corpora,
        out=out,
        schedule=Schedule(steps, lr=lr, warmup=max(10, steps // 40), decay=0.35, floor=0.05),
        precision=precision,
        bias_speed=0.01,
        quantise_from=0.85,
        indexer_steps=100,
        heldout=HELDOUT if heldout else (),
        heldout_folder=heldout,
        eval_every=50,
        max_minutes=max_minutes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--heldout", type=Path)
    parser.add_argument("--run", type=Path, default=Path("runs/nano"))
    parser.add_argument("--out", type=Path, default=Path("models/nano"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--max-minutes", type=float)
    args = parser.parse_args()
    torch.set_num_threads(2)  # the run is reproducible to the bit only with equal threads
    plan = config(
        args.corpora, args.run, args.heldout, steps=args.steps, lr=args.lr,
        precision=args.precision, max_minutes=args.max_minutes,
    )  # fmt: skip
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    done = 0
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("preparing", total=args.steps)

        def report(record: dict[str, float]) -> None:
            nonlocal done
            done = int(record["step"])
            line = f"loss {record['loss']:.3f}, {record['tokens_per_second']:.0f} tokens/s"
            if "validation_loss" in record:
                line += f", held-out {record['validation_loss']:.3f}"
                progress.console.print(f"step {record['step']}: {line}")
            progress.update(task, completed=record["step"], description=line)

        model = train(plan, report=report, status=progress.console.print)
    if 0 < done < args.steps:
        print(f"stopped after step {done}; the same command goes on")
        return
    plot_losses(args.run / "metrics.jsonl", args.out / "loss.png", "nano: pre-training loss")
    export_released(model, args.out, overwrite=True)
    (args.out / "tokenizer.json").write_bytes((args.run / "tokenizer.json").read_bytes())


if __name__ == "__main__":
    main()
