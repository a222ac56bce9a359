"""What the model writes, to be read: stories, and answers to a newcomer's first questions."""

from __future__ import annotations

from collections.abc import Iterator

from dsv4.encoding.messages import Message
from dsv4.engine.sampler import GREEDY, Sampling
from dsv4.evaluation.benchmark import Benchmark, Settings
from dsv4.evaluation.question import Answer, Chat, Item, Measures, Said, Target

QUESTIONS = (
    "Hello! Who are you?",
    "What can you do?",
    "What can't you do?",
    "Can you tell me a short story about a fox?",
    "What is the capital of France?",
)
STORIES = (
    "Write a short story about a girl and her kite.",
    "Write a bedtime story called `The Lamp in the Forest`.",
    "Tell me a campfire story about an old boat.",
)
LONGEST = 400
WAYS = {
    "greedy": GREEDY,
    "seed 1": Sampling(temperature=0.7, top_p=0.95, seed=1),
    "seed 2": Sampling(temperature=0.7, top_p=0.95, seed=2),
}


def _items(questions: tuple[str, ...], settings: Settings) -> Iterator[Item]:
    for i, question in enumerate(questions[: settings.count(len(questions))]):
        for way, sampling in WAYS.items():
            chat = Chat((Message("user", question),), LONGEST, sampling=sampling)
            yield Item(f"{i}/{way}", way, chat, _grade, question)


def _grade(answer: Answer) -> Measures:
    assert isinstance(answer, Said)
    return {"ended": float(answer.finished)}


def _benchmark(name: str, title: str, questions: tuple[str, ...]) -> Benchmark:
    def items(settings: Settings, target: Target) -> Iterator[Item]:
        return _items(questions, settings)

    about = "Greedy, and drawn at temperature 0.7 and top-p 0.95 with two fixed seeds."
    return Benchmark(name, title, about, items, lambda records: [], samples=True)


NEWCOMER = _benchmark("newcomer", "A newcomer's first questions", QUESTIONS)
STORY = _benchmark("stories", "Stories", STORIES)
