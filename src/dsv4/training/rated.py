"""Samples with what they earned, and the form in which a checkpoint keeps them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.training.rollout import Sample


@dataclass(frozen=True, slots=True)
class Rated:
    """A sample, its question's kind, what it earned, and by how much that is above its group."""

    sample: Sample
    kind: str
    score: float
    reward: float
    advantage: float


def outcomes(rated: Sequence[Rated]) -> dict[str, tuple[float, float]]:
    """What the answers of a step were like: overall, and the score of each kind."""
    if not rated:
        return {}
    count = float(len(rated))
    sums = {
        "reward": (sum(r.reward for r in rated), count),
        "score": (sum(r.score for r in rated), count),
        "length": (float(sum(len(r.sample.answer) for r in rated)), count),
        "truncated": (float(sum(not r.sample.complete for r in rated)), count),
    }
    kinds: dict[str, list[float]] = defaultdict(list)
    for one in rated:
        kinds[one.kind].append(one.score)
    return sums | {
        f"score.{kind}": (sum(scores), float(len(scores))) for kind, scores in kinds.items()
    }


def pack(rated: Sequence[Rated]) -> dict[str, Tensor]:
    """Everything as named tensors; `unpack` gives back the same to the bit."""
    if not rated:
        return {}
    rows = [
        {
            "prompt": one.sample.prompt,
            "answer": one.sample.answer,
            "logprobs": one.sample.logprobs,
            "complete": one.sample.complete,
            "kind": one.kind,
            "numbers": (one.score, one.reward, one.advantage),
        }
        for one in rated
    ]
    text = json.dumps(rows).encode()
    experts = torch.cat([one.sample.experts_TLK for one in rated])
    return {
        "rated.rows": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        "rated.experts": experts.to(torch.int32),
    }


def unpack(tensors: Mapping[str, Tensor]) -> list[Rated]:
    """What `pack` packed."""
    if "rated.rows" not in tensors:
        return []
    rows = json.loads(bytes(tensors["rated.rows"].tolist()))
    lengths = [len(row["prompt"]) + len(row["answer"]) - 1 for row in rows]
    experts = tensors["rated.experts"].long().split(lengths)
    return [
        Rated(
            Sample(
                tuple(row["prompt"]),
                tuple(row["answer"]),
                tuple(row["logprobs"]),
                row["complete"],
                experts_TLK,
            ),
            row["kind"],
            *row["numbers"],
        )
        for row, experts_TLK in zip(rows, experts, strict=True)
    ]
