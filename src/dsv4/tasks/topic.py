"""What small talk is made of: questions that mean the same, and answers to all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Questions that mean the same, answers that fit all of them.

    about: what the user wants, as the model's reasoning says it. wanted: groups of words; a good
    answer has one word of each group.
    """

    about: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    wanted: tuple[tuple[str, ...], ...]
