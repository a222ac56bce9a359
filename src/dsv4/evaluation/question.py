"""What an evaluation asks, what comes back, who answers: the seam between benchmarks and models.

A benchmark makes items: a question, and how an answer to it is judged. A target answers
questions, many at once, in any order. Neither knows the other: any benchmark runs against
anything that answers its kind of question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dsv4.data.documents import Document
from dsv4.encoding.events import Reply
from dsv4.encoding.messages import Message
from dsv4.engine.sampler import GREEDY, Sampling
from dsv4.tasks.problem import Effort


@dataclass(frozen=True)
class Chat:
    """A conversation to continue by one reply. `tools`: function objects."""

    messages: tuple[Message, ...]
    max_tokens: int
    effort: Effort = "off"
    tools: tuple[Mapping[str, Any], ...] = ()
    sampling: Sampling = GREEDY


@dataclass(frozen=True)
class Fill:
    """A text with a hole. Without a suffix: a text to continue."""

    prefix: str
    suffix: str | None
    max_tokens: int
    sampling: Sampling = GREEDY


@dataclass(frozen=True)
class Likelihood:
    """How likely are these documents? Of each, what a model is to write counts (see
    `dsv4.data.documents`), its EOS only with `end`."""

    documents: tuple[Document, ...]
    end: bool = True


Question = Chat | Fill | Likelihood


@dataclass(frozen=True)
class Said:
    """What was written. `reply` is None if it departs from the encoding; `finished`: it was ended
    by the model, not by the limit. Tokens: `tokens` written, of a service also those of the prompt
    that it charges for, found in its cache or not."""

    text: str
    reply: Reply | None
    finished: bool
    tokens: int = 0
    hit: int = 0
    miss: int = 0


@dataclass(frozen=True)
class Scored:
    """Natural log-probability of each document, and how many tokens counted in it."""

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]


Answer = Said | Scored
Measures = Mapping[str, float]


@dataclass(frozen=True)
class Item:
    """One question of a benchmark. `id` is unique in it, `group` what is averaged over; `grade`
    gives numbers, 0 or 1 for what is wrong or right. `prompt`: the question for people."""

    id: str
    group: str
    question: Question
    grade: Callable[[Answer], Measures]
    prompt: str = ""

    @property
    def digest(self) -> str:
        """Differs where the question differs."""
        return hashlib.blake2b(repr(self.question).encode(), digest_size=8).hexdigest()


class Target(Protocol):
    """Something that answers questions.

    fingerprint: equal only if the answers to equal questions are equal (or, of a service that
    nobody can see into, may be). likelihoods: whether it can tell how likely a document is.
    context: tokens that a question and its answer can have.
    """

    name: str
    fingerprint: str
    likelihoods: bool

    @property
    def context(self) -> int: ...

    def length(self, question: Question) -> int:
        """About how many tokens the question has."""
        ...

    def answer(self, questions: Iterable[Question]) -> Iterator[tuple[int, Answer]]:
        """The answers with the numbers of their questions, in the order in which they come.

        A target that is paid for takes a question only when it is about to ask it.
        Raises UsageError for a kind of question that this target cannot answer.
        """
        ...
