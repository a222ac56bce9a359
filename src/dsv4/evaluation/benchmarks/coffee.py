"""Held-out dialogues of Taskmaster-4: which function is called with what, given the history."""

from __future__ import annotations

from collections.abc import Iterator

from dsv4.data.corpora import Source, read
from dsv4.data.documents import Conversation
from dsv4.evaluation.benchmark import Benchmark, Settings, averages
from dsv4.evaluation.benchmarks.problems import item as problem_item
from dsv4.evaluation.question import Item, Target
from dsv4.tasks.replay import call_problems

SOURCE = Source("coffee", "**/taskmaster4_coffee_tools.jsonl*", 1, "CC-BY 4.0", split="heldout")
CALLS = 200


def items(settings: Settings, target: Target) -> Iterator[Item]:
    """Every turn of an assistant that calls functions, until there are enough."""
    assert settings.corpora is not None
    count = 0
    for number, document in enumerate(read(SOURCE, settings.corpora)):
        assert isinstance(document, Conversation)
        for at, problem in enumerate(call_problems("coffee", document.messages, document.tools)):
            if count == settings.count(CALLS):
                return
            count += 1
            yield problem_item(problem, f"{number}/{at}", problem.reply.tool_calls[0].name)


COFFEE = Benchmark(
    "taskmaster",
    "Taskmaster-4",
    "Held-out coffee orders: the next call given the true history.",
    items,
    averages("well_formed", "right_name", "right_arguments"),
    needs="corpora",
)
