"""Batches of graded rollouts: questions drawn, answered by the policy, rated and written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dsv4.training.grpo import advantages
from dsv4.training.questions import Question, Questions
from dsv4.training.rated import Rated
from dsv4.training.rollout import Actor, Ask, Sample


@dataclass(frozen=True, slots=True)
class RolloutSource:
    """Samples batches of `prompts` questions with `group` answers each.

    Batch number n follows from n, the seed and the actor's weights. log: folder that gets a JSONL
    file of every batch, a line per answer, for people.
    """

    actor: Actor
    questions: Questions
    prompts: int
    group: int
    log: Path
    seed: int = 0

    def sample(self, number: int) -> list[Rated]:
        """The answers of a batch, group after group."""
        rng = Random(f"{self.seed} {number}")
        questions = [self.questions.draw(rng) for _ in range(self.prompts)]
        asks = [
            Ask(question.ids, question.max_tokens, draw_seed(self.seed, number, i, k))
            for i, question in enumerate(questions)
            for k in range(self.group)
        ]
        samples = self.actor.sample(asks)
        groups = [samples[i : i + self.group] for i in range(0, len(samples), self.group)]
        rated = [_rate(*pair) for pair in zip(questions, groups, strict=True)]
        self._write(number, questions, rated)
        return [one for group in rated for one in group]

    def _write(
        self, number: int, questions: Sequence[Question], groups: Sequence[Sequence[Rated]]
    ) -> None:
        self.log.mkdir(parents=True, exist_ok=True)
        with (self.log / f"{number:06d}.jsonl").open("w", encoding="utf-8") as file:
            for question, group in zip(questions, groups, strict=True):
                prompt = question.show(question.ids)
                for one in group:
                    record = {
                        "kind": one.kind,
                        "prompt": prompt,
                        "answer": question.show(one.sample.answer),
                        "score": one.score,
                        "reward": one.reward,
                        "advantage": one.advantage,
                        "tokens": len(one.sample.answer),
                        "complete": one.sample.complete,
                    }
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")


def draw_seed(*parts: int) -> int:
    """A 63-bit seed that follows from numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _rate(question: Question, samples: Sequence[Sample]) -> list[Rated]:
    scores = [question.grade(sample.answer) for sample in samples]
    rewards = [
        question.reward(sample.answer, score) for sample, score in zip(samples, scores, strict=True)
    ]
    rows = zip(samples, scores, rewards, advantages(rewards), strict=True)
    return [Rated(sample, question.kind, *numbers) for sample, *numbers in rows]
