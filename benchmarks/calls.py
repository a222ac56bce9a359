"""How often a model's calls of tools have exactly the right arguments, on problems of one's choice.

    python benchmarks/calls.py MODEL [--seed 77] [--problems 40]

One call and two, in each mode of thinking, of the held-out split, greedy and unconstrained: what
`dsv4 eval --only tools` asks, whose problems are those of seed 0. Choose among weights here, so
that the evaluation stays fresh. The modes are asked the same requests, so that three answers tell
little more than one.
"""

from __future__ import annotations

import argparse
from collections import Counter

from dsv4.chat.model import load
from dsv4.errors import Dsv4Error
from dsv4.evaluation.benchmarks.problems import item
from dsv4.evaluation.local import LocalModel
from dsv4.tasks.problem import EFFORTS, Ask
from dsv4.tasks.registry import problems

TASKS = ("tool_call", "tool_calls")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a model folder, or the name of a bundled one")
    parser.add_argument("--seed", type=int, default=77, help="whose problems (not 0)")
    parser.add_argument("--problems", type=int, default=40, help="of each task and mode")
    args = parser.parse_args()
    if args.seed == 0:
        parser.error("--seed 0: those are the problems of dsv4 eval")
    if args.problems < 1:
        parser.error("--problems: at least one")

    items = [
        item(problem, str(number), f"{task}, {effort}")
        for task in TASKS
        for effort in EFFORTS
        for number, problem in enumerate(
            problems(task, args.problems, seed=args.seed, split="heldout", ask=Ask(effort=effort))
        )
    ]
    right: Counter[str] = Counter()
    formed: Counter[str] = Counter()
    try:
        target = LocalModel(load(args.model, "fast"))
    except Dsv4Error as error:
        parser.error(str(error))
    try:
        for number, answer in target.answer([one.question for one in items]):
            one = items[number]
            measured = one.grade(answer)
            right[one.group] += int(measured.get("right_arguments", 0))
            formed[one.group] += int(measured["well_formed"])
    finally:
        target.close()
    for group in dict.fromkeys(one.group for one in items):
        print(f"{group}: {right[group]} of {args.problems} right, {formed[group]} well formed")
    shares = [sum(right[f"{task}, {effort}"] for effort in EFFORTS) for task in TASKS]
    single, double = (100 * count / (len(EFFORTS) * args.problems) for count in shares)
    print(f"one call {single:.1f} %, two {double:.1f} %; weighed as dsv4 eval does, two to one: "
          f"{(2 * single + double) / 3:.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
