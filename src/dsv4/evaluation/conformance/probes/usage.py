"""What answers say they took: does it add up, and is it what was allowed?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.chance import interval
from dsv4.evaluation.conformance.probes.leaks import leak
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import open_questions
from dsv4.evaluation.conformance.probes.reply import Reply
from dsv4.evaluation.conformance.probes.service import Service
from dsv4.evaluation.intervals import wilson

LIMITS = (1, 2, 3, 5, 8, 13, 21)
SLACK = 2
"""Tokens by which an encoded answer may be longer than it was drawn: a text that is cut inside a
character, or that the vocabulary writes in more pieces than the model did."""
WHERE = "usage"


def run(service: Service) -> Iterator[Told]:
    asked = open_questions(Random("usage"), len(LIMITS), 120)
    replies: list[tuple[int, Reply, str]] = []
    for messages, limit in zip(asked, LIMITS, strict=True):
        replies.append((limit, service.ask(messages, limit), "whole"))
        replies.append((limit, service.stream(messages, limit), "streamed"))
    problems: dict[str, list[str]] = {}
    missing = 0
    for limit, reply, how in replies:
        missing += not reply.usage
        for kind, text in _problems(service, reply, limit):
            problems.setdefault(kind, []).append(f"{text} ({how})")
    wrong = sum(bool(list(_problems(service, reply, limit))) for limit, reply, _ in replies)
    share = wilson(len(replies) - wrong, len(replies))
    yield Measured(f"{interval(share)} of {len(replies)} answers add up and keep max_tokens")
    if missing:
        yield Skipped(f"usage of {missing} of {len(replies)} answers", "it was not sent")
    for kind, texts in problems.items():
        yield Finding(
            f"{kind}: {len(texts)} of {len(replies)} answers, for example {texts[0]}",
            WHERE,
            hint=_HINTS.get(kind),
        )
    for first, second in zip(replies[::2], replies[1::2], strict=True):
        a, b = first[1].count("prompt_tokens"), second[1].count("prompt_tokens")
        if a is not None and b is not None and a != b:
            yield Finding(
                f"prompt_tokens of the same prompt: {a} whole, {b} streamed",
                WHERE,
                hint="one of the two renders another prompt, or counts otherwise",
            )
            return


TOTAL = "prompt_tokens + completion_tokens is not total_tokens"
CACHED = "more tokens are cached than the prompt has"
PARTS = "cache hits and misses are not the prompt"
REASONING = "more tokens are reasoning than the answer has"
LIMIT = "max_tokens is not kept"
_HINTS = {
    TOTAL: "bills and budgets are computed from these",
    LIMIT: "is it read under another name, such as max_completion_tokens?",
}


def _problems(service: Service, reply: Reply, limit: int) -> Iterator[tuple[str, str]]:
    """What is wrong with one answer, as a kind and numbers."""
    prompt, answer = reply.count("prompt_tokens"), reply.count("completion_tokens")
    total = reply.count("total_tokens")
    if prompt is not None and answer is not None and total is not None and prompt + answer != total:
        yield TOTAL, f"{prompt} + {answer} and {total}"
    cached = reply.cached
    if prompt is not None and cached is not None and cached > prompt:
        yield CACHED, f"{cached} of {prompt}"
    hit, miss = reply.count("prompt_cache_hit_tokens"), reply.count("prompt_cache_miss_tokens")
    if prompt is not None and hit is not None and miss is not None and hit + miss != prompt:
        yield PARTS, f"{hit} + {miss} and {prompt}"
    thought = reply.count("completion_tokens_details.reasoning_tokens")
    if answer is not None and thought is not None and thought > answer:
        yield REASONING, f"{thought} of {answer}"
    if answer is not None and answer > limit:
        yield LIMIT, f"{answer} tokens where {limit} were allowed"
    elif service.tokenizer is not None and _is_text(reply):
        written = len(service.tokenizer.encode(reply.reasoning + reply.content))
        if written > limit + SLACK and written > 1.5 * limit:
            yield LIMIT, f"a text of {written} tokens where {limit} were allowed"


def _is_text(reply: Reply) -> bool:
    """Whether an answer has about as many tokens as its text: half characters do not, nor do
    control tokens that are shown."""
    said = reply.reasoning + reply.content
    return "\ufffd" not in said and leak(said) is None


PROBE = Probe(
    WHERE,
    "seven questions with max_tokens from 1 to 21, whole and streamed",
    "sums that are wrong, more cached or reasoning tokens than there are, max_tokens not kept",
    run,
)
