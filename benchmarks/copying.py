"""From how far back a model copies the arguments of calls.

    python benchmarks/copying.py MODEL [MODEL ...] [--problems 100]

Held-out problems with one and with two calls, the reference reply given (no thinking): the share of
names of parameters, and of values, all of whose tokens are the most likely ones, by the tokens
between them and where the same characters stand before the reply: names first (the definitions of
the tools), values last (the request; a number may be found in a longer one). What stands nowhere in
the same form, as lists do, is left out.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from dsv4 import checkpoint
from dsv4.data.corpora import from_problem
from dsv4.data.documents import encode_document
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.tasks.problem import Ask, Problem
from dsv4.tasks.registry import problems

BOUNDS = (50, 100, 128, 150, 200, 250, 300, 400, 10_000)
"""Distances, in tokens, that end a column."""

PARAMETER = re.compile(r'parameter name="([^"]+)" string="(?:true|false)">(.*?)</', re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--problems", type=int, default=100, help="of each task")
    args = parser.parse_args()
    for folder in args.models:
        model = checkpoint.load(folder)
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
        print(folder)
        for task in ("tool_call", "tool_calls"):
            asked: Counter[tuple[str, int]] = Counter()
            right: Counter[tuple[str, int]] = Counter()
            whole = 0
            for problem in problems(
                task, args.problems, seed=77, split="heldout", ask=Ask(effort="off")
            ):
                found = list(_copies(model, tokenizer, problem))
                whole += all(copied for _, _, copied in found)
                for kind, distance, copied in found:
                    column = kind, next(bound for bound in BOUNDS if distance < bound)
                    asked[column] += 1
                    right[column] += copied
            print(f"  {task}: everything copied in {whole} of {args.problems}")
            for kind in ("name", "value"):
                shares = (
                    f"<{bound} {right[kind, bound] / asked[kind, bound]:.0%}"
                    f" of {asked[kind, bound]}"
                    for bound in BOUNDS
                    if asked[kind, bound]
                )
                print(f"    {kind}: " + ", ".join(shares))


@torch.inference_mode()
def _copies(
    model: torch.nn.Module, tokenizer: Tokenizer, problem: Problem
) -> Iterator[tuple[str, int, bool]]:
    """What the reply copies: "name" or "value", tokens back to where it stands, whether all of its
    tokens are the most likely ones."""
    encoded = encode_document(tokenizer, from_problem(problem))
    ids = torch.tensor(encoded.ids)
    likely = model(ids[None]).logits_BTV.reshape(len(ids), -1).argmax(-1)
    text, token_at = "", []  # of each character, the token that it belongs to
    for place, index in enumerate(encoded.ids):
        piece = tokenizer.decode([index])
        text += piece
        token_at += [place] * len(piece)
    reply = token_at.index(encoded.learned.index(True))
    for call in PARAMETER.finditer(text, reply):
        name, value = call.groups()
        for kind, group, given in (
            ("name", 1, text.find(f'"{name}"', 0, reply) + 1),
            ("value", 2, text.rfind(value, 0, reply)),
        ):
            if given <= 0:
                continue
            first = token_at[call.start(group)]
            places = range(first, token_at[call.end(group)] + 1)
            copied = all(likely[place - 1] == ids[place] for place in places)
            yield kind, first - token_at[given], copied


if __name__ == "__main__":
    main()
