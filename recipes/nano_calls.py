"""The bundled model once more on calls of tools: two runs from one model, and their mean.

    python recipes/nano_calls.py runs/calls models/nano --corpora CORPORA --run 1
    python recipes/nano_calls.py runs/calls models/nano --corpora CORPORA --run 2
    python recipes/nano_calls.py runs/calls models/nano --corpora CORPORA

The two runs do not need each other: one for each core, in float32 unless told otherwise, since not
every processor multiplies bfloat16 natively. The last command makes those that are
missing and leaves the mean of both in runs/calls/model. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from nano_mix import COFFEE, OURS, copying
from nano_stages import ANSWERS, COPY_LENGTH, COPY_TOKENS, FROZEN, PRECISIONS, finished, line, mean

from dsv4.chat import defaults
from dsv4.data.corpora import Source
from dsv4.errors import Dsv4Error
from dsv4.training import Schedule
from dsv4.training.policy import OPTIMIZER
from dsv4.training.pretrain import Trained
from dsv4.training.sft import SftConfig, fine_tune, prepare

RUNS = (1, 2)
SCHEDULE = Schedule(650, lr=7e-4, warmup=10, decay=0.5, floor=0.03, mtp=(0.0, 0.3))

CALLS = {
    "tool_call": 800,
    "tool_calls": 1800,
    "tool_session": 400,
    "everyday_tool": 300,
    "repeat": 1500,
}
"""Problems of each task in the mix of a run: 2.3 of 4.3 million tokens, of which the steps read
4.1."""
TEXT, KEPT = 6.0, 0.3
"""Scale of the tuning mix, and how much of the rest of it is read besides (`nano_mix.KEPT`)."""
COFFEE_KEPT = 0.042
"""Share of the orders of coffee: more than the mix would keep of what is learned late and
forgotten first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="run folder; an interrupted run goes on")
    parser.add_argument("model", type=Path, help="folder of the model to start from")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32-compiled")
    parser.add_argument("--run", type=int, choices=RUNS, help="only this one")
    args = parser.parse_args()
    try:
        runs = [_run(run, args) for run in RUNS if args.run in (None, run)]
    except Dsv4Error as error:
        parser.error(str(error))
    if args.run is not None:
        return
    mean(runs, args.model / "tokenizer.json", args.out / "model")
    defaults.write_defaults(args.out / "model", ANSWERS)


def _run(number: int, args: argparse.Namespace) -> Trained:
    config = SftConfig(
        init=args.model,
        sources=mix(number),
        corpora=args.corpora,
        out=args.out / f"run-{number}",
        schedule=SCHEDULE,
        max_length=COPY_LENGTH,
        batch_tokens=COPY_TOKENS,
        epochs=None,
        seed=number,
        optimizer=OPTIMIZER,
        frozen=FROZEN,
        bias_speed=0.0,
        precision=args.precision,
        checkpoint_every=40,
    )
    return finished(config.out.name, fine_tune(prepare(config, print), report=line, status=print))


def mix(number: int) -> tuple[Source, ...]:
    """The mix of a run; of the tasks in `CALLS` each run has other problems."""
    left = {COFFEE.name, *(f"task_{name}" for name in CALLS)}
    kept = [source for source in copying(TEXT, COPY_LENGTH, rest=KEPT) if source.name not in left]
    own = [
        Source(f"task_{name}", f"tasks:{name}", 1, OURS, count=count, seed=80 + number)
        for name, count in CALLS.items()
    ]
    return (*kept, replace(COFFEE, keep=COFFEE_KEPT), *own)


if __name__ == "__main__":
    main()
