"""Model output that is cut, damaged and put together at random, fed in every division."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

import pytest

from dsv4.encoding.control import ASSISTANT, DSML, EOS, THINK_CLOSE, THINK_OPEN, USER
from dsv4.encoding.control import split_controls as split
from dsv4.encoding.events import ContentDelta, Event, ReasoningDelta, ToolCallEnd, merge
from dsv4.encoding.stream import StreamParser

TOOLS = [
    {
        "name": "find",
        "parameters": {
            "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "where": {"type": "object"},
            }
        },
    },
    {"name": "stop"},
]
WORDS = ("a", " ", "\n", "\n\n", "<", "</", ">", "<b>", "世", "é", '"', "=", "{}", "DSML", "invoke")
MARKUP = (
    f"<{DSML}tool_calls>",
    f"</{DSML}tool_calls>",
    f"<{DSML}toolcalls>",
    f'<{DSML}invoke name="find">',
    f'<{DSML}invoke name="lost">',
    f"</{DSML}invoke>",
    f'<{DSML}parameter name="text" string="true">',
    f'<{DSML}parameter name="count" string="false">',
    f'<{DSML}parameter name="where">',
    f"</{DSML}parameter>",
    DSML,
    THINK_CLOSE,
    THINK_OPEN,
    USER,
    ASSISTANT,
    EOS,
)
VALUES = {
    "text": ("true", ("plain", "", "a </b> c", "line\nline", "<", "世", "</")),
    "count": ("false", ("1", "-20")),
    "where": ("false", ("{}", '{"a": ["</b>", "\\n"]}')),
}


def text(chooser: random.Random, most: int = 8) -> str:
    return "".join(chooser.choice(WORDS) for _ in range(chooser.randrange(most)))


def invoke(chooser: random.Random) -> str:
    name = chooser.choice(("find", "stop"))
    keys = chooser.sample(sorted(VALUES), chooser.randrange(4)) if name == "find" else []
    lines = [
        f'<{DSML}parameter name="{key}" string="{VALUES[key][0]}">'
        f"{chooser.choice(VALUES[key][1])}</{DSML}parameter>"
        for key in keys
    ]
    return f'<{DSML}invoke name="{name}">\n' + "\n".join(lines) + f"\n</{DSML}invoke>"


def well_formed(chooser: random.Random) -> str:
    """Reasoning, content and calls as the model was trained to write them."""
    invokes = [invoke(chooser) for _ in range(chooser.randrange(1, 4))]
    block = f"\n\n<{DSML}tool_calls>\n" + "\n".join(invokes) + f"\n</{DSML}tool_calls>"
    return f"{text(chooser)}{THINK_CLOSE}{text(chooser)}{block}{EOS}"


def mutated(chooser: random.Random) -> str:
    """A well-formed answer with some pieces lost, doubled, changed places or come from nowhere."""
    pieces = [piece for piece, _ in split(well_formed(chooser))]
    for _ in range(chooser.randrange(1, 5)):
        at = chooser.randrange(len(pieces) + 1)
        what = chooser.randrange(5)
        if what == 0:
            del pieces[at : at + chooser.randrange(1, 3)]
        elif what == 1:
            pieces[at:at] = pieces[at : at + 2]
        elif what == 2:
            pieces.insert(at, chooser.choice(MARKUP))
        elif what == 3:
            pieces.insert(at, text(chooser, 4))
        elif at < len(pieces):
            other = chooser.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
    return "".join(pieces)


def soup(chooser: random.Random) -> str:
    return "".join(
        chooser.choice(MARKUP) if chooser.random() < 0.5 else text(chooser, 4)
        for _ in range(chooser.randrange(1, 12))
    )


def feed(pieces: Sequence[tuple[str, bool]], *, thinking: bool, truncated: bool) -> list[Event]:
    parser = StreamParser(thinking=thinking, tools=TOOLS)
    events = [e for piece, control in pieces for e in parser.feed(piece, control=control)]
    return merge([*events, *parser.finish(truncated=truncated)])


def divisions(answer: str, chooser: random.Random) -> Iterator[list[tuple[str, bool]]]:
    """The answer letter by letter, cut once at each place, and at random; control tokens whole."""
    whole = split(answer)
    yield [
        part
        for piece, control in whole
        for part in ([(piece, True)] if control else [(letter, False) for letter in piece])
    ]
    places = [
        (i, at)
        for i, (piece, control) in enumerate(whole)
        if not control
        for at in range(1, len(piece))
    ]
    for i, at in chooser.sample(places, min(len(places), 12)):
        piece = whole[i][0]
        yield [*whole[:i], (piece[:at], False), (piece[at:], False), *whole[i + 1 :]]


@pytest.mark.parametrize("make", [well_formed, mutated, soup])
@pytest.mark.parametrize("thinking", [True, False])
def test_events_do_not_depend_on_how_output_is_cut(make: object, thinking: bool) -> None:
    assert callable(make)
    for seed in range(400):
        chooser = random.Random(seed)
        answer = make(chooser)
        truncated = chooser.random() < 0.3
        expected = feed(split(answer), thinking=thinking, truncated=truncated)
        for pieces in divisions(answer, chooser):
            assert feed(pieces, thinking=thinking, truncated=truncated) == expected, answer
        for event in expected:
            if isinstance(event, ToolCallEnd) and event.complete:
                assert isinstance(json.loads(event.arguments), dict), answer


def test_well_formed_calls_leak_no_markup() -> None:
    for seed in range(1500):
        answer = well_formed(random.Random(seed))
        events = feed(split(answer), thinking=True, truncated=False)
        for event in events:
            if isinstance(event, (ContentDelta, ReasoningDelta)):
                assert DSML not in event.text and THINK_CLOSE not in event.text, answer
            if isinstance(event, ToolCallEnd):
                assert event.complete and DSML not in event.arguments, answer
        ends = [event for event in events if isinstance(event, ToolCallEnd)]
        assert len(ends) == answer.count(f"<{DSML}invoke"), answer


def test_an_answer_cut_anywhere_shows_no_part_of_a_call() -> None:
    for seed in range(150):
        chooser = random.Random(seed)
        answer = well_formed(chooser)
        for _ in range(15):
            whole = split(answer)
            last, control = whole[at := chooser.randrange(len(whole))]
            cut = whole[:at] if control else [*whole[:at], (last[: chooser.randrange(99)], False)]
            for event in feed(cut, thinking=True, truncated=True):
                if isinstance(event, (ContentDelta, ReasoningDelta)):
                    assert DSML not in event.text, answer
                    assert "tool_calls" not in event.text, answer
