"""A newcomer's first questions and small talk, answered by nano in fluent English."""

from __future__ import annotations

from random import Random

from dsv4.encoding.events import Reply
from dsv4.encoding.messages import Message
from dsv4.tasks.checks import Mentions
from dsv4.tasks.introduction import TOPICS
from dsv4.tasks.pleasantries import PLEASANTRIES
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, pick_effort
from dsv4.tasks.topic import Topic

_SYSTEMS = (
    "You are a helpful assistant.", "You are nano, a small language model.", "Be friendly.",
    "Answer in one or two sentences.", "You are a friendly assistant.", "Be brief.",
)  # fmt: skip
_OPENINGS = (
    "Hi! ",
    "Hello! ",
    "Hey, ",
    "So, ",
    "Please tell me: ",
    "I have a question. ",
    "Tell me, ",
)
_UNTRUE = ("I am ChatGPT", "I am DeepSeek", "I am Claude", "I am GPT-4", "I was made by DeepSeek",
           "I am a human", "I am Llama")  # fmt: skip


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """A question about the model, or small talk, sometimes after a turn or two of the same.

    Held out are questions; every answer of a topic fits each of its questions.
    """
    topics = [_topic(rng, split) for _ in range(rng.choices((1, 2, 3), (6, 2, 1))[0])]
    messages: list[Message] = []
    if rng.random() < 0.25:
        messages.append(Message("system", rng.choice(_SYSTEMS)))
    for topic in topics[:-1]:
        messages.append(Message("user", _question(rng, topic, split)))
        messages.append(Message("assistant", rng.choice(topic.answers)))
    topic = topics[-1]
    messages.append(Message("user", _question(rng, topic, split)))
    effort = pick_effort(rng, ask, off=0.75, high=0.2)
    reasoning = None
    if effort != "off":
        reasoning = f"The user {topic.about}. I answer shortly and truthfully."
    if effort == "max":
        reasoning = f"{reasoning} I only say what is true of me, nano, a very small model."
    reply = Reply(reasoning, rng.choice(topic.answers))
    check = Mentions(topic.wanted, _UNTRUE, sentence=True)
    return Problem("identity", tuple(messages), reply, check, effort)


def _known(topic: Topic, split: Split) -> list[str]:
    """The questions of a split; how they are typed makes no difference."""
    return [text for text in topic.questions if belongs(text.lower().strip("?.! "), split)]


def _topic(rng: Random, split: Split) -> Topic:
    """A topic with a question of the split, more often one about the model."""
    while True:
        topic = rng.choice(TOPICS if rng.random() < 0.65 else PLEASANTRIES)
        if _known(topic, split):
            return topic


def _question(rng: Random, topic: Topic, split: Split) -> str:
    """A question of the split, in one of the ways in which people type."""
    text = rng.choice(_known(topic, split))
    style = rng.random()
    if style < 0.12 and text.endswith("?"):
        opening = rng.choice(_OPENINGS)
        return opening + (text[0].lower() + text[1:] if opening.endswith(", ") else text)
    if style < 0.22:
        return text.lower()
    if style < 0.3:
        return text.rstrip("?.!")
    if style < 0.34:
        return text.lower().rstrip("?.!")
    return text


TASK = Task("identity", "a newcomer's questions to nano, and small talk", make)
