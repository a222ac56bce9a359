"""Streamed and whole: the same answer?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from dsv4.evaluation.conformance.finding import Finding
from dsv4.evaluation.conformance.probes.agreement import Agreement, judged
from dsv4.evaluation.conformance.probes.probe import Probe, Told
from dsv4.evaluation.conformance.probes.prompts import open_questions, user
from dsv4.evaluation.conformance.probes.reply import Reply
from dsv4.evaluation.conformance.probes.service import Messages, Service

ROOM = 32
UNICODE = user("Write exactly this: Żółw 東京 😀👩‍🚀 é Привет ﷺ 한국어")
"""Characters of several bytes, which tokens may cut."""


def run(service: Service) -> Iterator[Told]:
    asked: list[Messages] = [*open_questions(Random("streaming"), 5, 100), UNICODE]
    yield from Pair(service, asked, ROOM).told("streaming")


class Pair:
    """Answers whole and streamed: asked for when it is made.

    `replies`: all of them. `found`: whole against streamed; `control`: whole against whole.
    """

    def __init__(self, service: Service, asked: list[Messages], room: int, **fields: Any) -> None:
        self.replies: list[Reply] = []
        self.found, self.control = Agreement(), Agreement()
        for messages in asked:
            self._ask(service, messages, room, fields)

    def _ask(
        self, service: Service, messages: Messages, room: int, fields: Mapping[str, Any]
    ) -> None:
        whole = service.ask(messages, room, **fields)
        streamed = service.stream(messages, room, **fields)
        again = service.ask(messages, room, **fields)
        self.replies += [whole, streamed]
        self.found.add(_text(whole), _begun(_text(streamed), whole))
        self.control.add(_text(whole), _text(again))

    def told(self, where: str) -> Iterator[Told]:
        yield from judged(
            where,
            "a streamed answer is not the one given whole",
            self.found,
            self.control,
            "deltas that are lost, sent twice, or cut inside a character or a marker",
            "the stream is parsed on its own: feed both parsers the same tokens",
        )
        broken = [
            f"{text} ({'streamed' if reply.pieces else 'whole'})"
            for reply in self.replies
            if reply.status < 400
            for text in reply.broken
        ]
        for text in dict.fromkeys(broken):
            yield Finding(
                f"{text}: {broken.count(text)} answers",
                where,
                hint="clients of OpenAI's API rely on this",
            )


def _text(reply: Reply) -> Reply:
    """Half a character at an answer's end is shown as U+FFFD or not at all."""
    return replace(reply, content=reply.content.rstrip("\ufffd"))


def _begun(streamed: Reply, whole: Reply) -> Reply:
    """A call that max_tokens cut is in the stream, as far as it went; a whole answer may leave it
    out."""
    cut = streamed.finish == whole.finish == "length"
    if cut and len(streamed.calls) == len(whole.calls) + 1:
        return replace(streamed, calls=streamed.calls[:-1])
    return streamed


PROBE = Probe(
    "streaming",
    "six questions whole, streamed and whole again; one is full of characters of several bytes",
    "deltas lost or doubled, no [DONE], no or several finish reasons, ids that change",
    run,
)
