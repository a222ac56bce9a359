"""The streaming parser gives the same events however its input is cut."""

from __future__ import annotations

import random

import pytest
from encoding_cases import (
    D,
    block,
    harmless_text,
    invoke,
    nasty_text,
    official,
    parameter,
    replies,
    stream,
    stream_spans,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.encoding.chat import render_reply
from dsv4.encoding.control import split_controls
from dsv4.encoding.events import (
    ContentDelta,
    ReasoningDelta,
    Reply,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
    collect,
    merge,
)
from dsv4.encoding.messages import ToolCall
from dsv4.encoding.parse import parse
from dsv4.encoding.stream import State, StreamParser
from dsv4.encoding.tokenizer import Tokenizer

EOS = "<｜end▁of▁sentence｜>"
REPLY = Reply(
    'think "hard" about 小 < </ ｜\n\n',
    "So:\n\n\n<b>😀</b>\n",
    (
        ToolCall("get", '{"a": "x\\ny \\"q\\" </", "b": [1, {"c": null}], "d": 1e+30}'),
        ToolCall("none", "{}"),
    ),
)
TEXT = render_reply(REPLY.message(), thinking=True).text


def random_cuts(text: str, seed: int) -> list[str]:
    draw = random.Random(seed)
    cuts = sorted(draw.sample(range(1, len(text)), min(len(text) - 1, draw.randint(1, 20))))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_every_split_gives_the_same_events() -> None:
    whole = stream([TEXT], thinking=True)
    assert collect(whole[0], thinking=True) == REPLY
    assert not whole[1]
    for at in range(1, len(TEXT)):
        assert stream([TEXT[:at], TEXT[at:]], thinking=True) == whole
    assert stream(TEXT, thinking=True) == whole
    for seed in range(200):
        assert stream(random_cuts(TEXT, seed), thinking=True) == whole


@settings(max_examples=100, deadline=None, derandomize=True)
@given(replies(harmless_text), st.integers(0, 2**32))
def test_stream_inverts_render(reply: Reply, seed: int) -> None:
    text = render_reply(reply.message(), thinking=True).text
    assert parse(text, thinking=True) == reply
    for pieces in ([text], list(text), random_cuts(text, seed)):
        events, malformed = stream(pieces, thinking=True)
        assert collect(events, thinking=True) == reply
        assert not malformed


@settings(max_examples=100, deadline=None, derandomize=True)
@given(replies(nasty_text))
def test_stream_of_tokens_inverts_render_of_any_text(reply: Reply) -> None:
    spans = render_reply(reply.message(), thinking=True).spans
    for step in (1, 5, 10_000):
        events, malformed = stream_spans(spans, thinking=True, step=step)
        assert collect(events, thinking=True) == reply
        assert not malformed


NOISE = [
    *(f"<{D}{name}>" for name in ("tool_calls", "toolcalls", "parameter")),
    *(f"</{D}{name}>" for name in ("tool_calls", "invoke", "parameter")),
    f'<{D}invoke name="f">',
    f'<{D}invoke name="no">',
    f'<{D}invoke name="',
    f'<{D}parameter name="a" string="true">',
    f'<{D}parameter name="b" string="false">',
    f'<{D}parameter name="arguments">',
    D,
    "<",
    "</",
    "\n",
    "\n\n",
    '"',
    ">",
    "x ",
    '{"a": 1}',
    "</think>",
    "<｜User｜>",
    EOS,
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}},
        },
    }
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(NOISE), max_size=12),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_any_markup_is_read_the_same_however_it_is_cut(
    parts: list[str], thinking: bool, declared: bool, truncated: bool, bare: bool, seed: int
) -> None:
    """Random markup, mostly wrong: never an exception, and chunking never matters."""
    text = "".join(parts)
    options = {
        "thinking": thinking,
        "tools": TOOLS if declared else None,
        "truncated": truncated,
        "bare_invokes": bare,
    }
    whole = stream([text], **options)  # type: ignore[arg-type]
    assert stream(text, **options) == whole  # type: ignore[arg-type]
    if len(text) > 1:
        assert stream(random_cuts(text, seed), **options) == whole  # type: ignore[arg-type]
    events = whole[0]
    starts = [e for e in events if isinstance(e, ToolCallStart)]
    ends = [e for e in events if isinstance(e, ToolCallEnd)]
    assert [e.index for e in starts] == [e.index for e in ends] == list(range(len(starts)))
    for end in ends:
        sent = [
            e.text for e in events if isinstance(e, ToolCallArgumentsDelta) and e.index == end.index
        ]
        assert "".join(sent) == end.arguments
    if declared:
        assert {e.name for e in starts} <= {"f"}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_official_answers(number: int) -> None:
    _, tools, expected = official(number)
    answers = [part.partition("<think>")[2] for part in expected.split("<｜Assistant｜>")[1:]]
    assert any(answers)
    for answer in filter(None, answers):
        text = answer.partition(EOS)[0] + EOS
        events, malformed = stream(text, thinking=True, tools=tools)
        assert collect(events, thinking=True) == parse(text, thinking=True)
        assert not malformed


def test_official_answer_through_ids(tokenizer: Tokenizer) -> None:
    """Text -> ids -> decoded pieces -> events: what a server does."""
    messages, tools, _ = official(1)
    prompt = render_reply(messages[2], thinking=True)
    parser = StreamParser(thinking=True, tools=tools)
    decoder = tokenizer.decoder()
    events = []
    for index in tokenizer.encode_prompt(prompt):
        for piece in decoder.feed(index):
            events += parser.feed(piece.text, control=piece.control)
    events += parser.finish()
    arguments = '{"location": "Beijing", "unit": "celsius"}'
    assert merge(events) == [
        ReasoningDelta(messages[2]["reasoning_content"]),
        ToolCallStart(0, "get_weather"),
        ToolCallArgumentsDelta(0, arguments),
        ToolCallEnd(0, arguments, complete=True),
    ]
    assert not parser.malformed


def test_deltas_are_sent_as_soon_as_they_are_certain() -> None:
    parser = StreamParser(thinking=True, markers="text")
    assert parser.feed("so") == [ReasoningDelta("so")]
    assert parser.state is State.REASON
    assert parser.feed("\n\n") == []
    assert parser.feed("</thi") == []
    assert parser.feed("nk>He") == [ReasoningDelta("\n\n"), ContentDelta("He")]
    assert parser.state is State.CONTENT
    assert parser.feed(f"llo\n\n<{D}tool_calls>\n") == [ContentDelta("llo")]
    assert parser.feed(f'<{D}invoke name="f"') == []
    assert parser.feed(">") == [ToolCallStart(0, "f")]
    assert parser.state is State.CALLS
    head = parser.feed(f'\n<{D}parameter name="k" string="true">a')
    assert merge(head) == [ToolCallArgumentsDelta(0, '{"k": "a')]
    assert parser.feed('"b') == [ToolCallArgumentsDelta(0, '\\"b')]
    assert parser.feed(f"</{D}parameter>") == [ToolCallArgumentsDelta(0, '"')]
    assert parser.feed(f'<{D}parameter name="n" string="false">1') == []
    assert merge(parser.feed(f"2</{D}parameter>")) == [ToolCallArgumentsDelta(0, ', "n": 12')]
    end = merge(parser.feed(f"</{D}invoke>"))
    assert end[-1] == ToolCallEnd(0, '{"k": "a\\"b", "n": 12}', complete=True)
    assert not parser.done
    assert parser.feed(f"</{D}tool_calls>") == []
    assert parser.done and parser.state is State.DONE
    assert parser.finish() == []


def test_content_may_end_in_anything_that_is_no_markup() -> None:
    for tail in ("\n", "\n\n", "\n\n\n", "<", "</", "<｜", "｜DSML", f"</{D[:-1]}", "</think"):
        for pieces in (["a" + tail], "a" + tail):
            events, malformed = stream(pieces)
            assert events == [ContentDelta("a" + tail)]
            assert not malformed


def test_text_of_tokens_is_content_when_tokens_are_known() -> None:
    text = f"write {block(invoke('f', parameter('a', '1')))} and </think> and {EOS}"
    events, malformed = stream_spans([(text, False)], thinking=False)
    assert events == [ContentDelta(text)]
    assert not malformed


def test_lone_surrogates_can_not_pose_as_tokens() -> None:
    for i in range(0xD800, 0xE000, 7):
        events, malformed = stream([f"a{chr(i)}b"])
        assert events == [ContentDelta("a\ufffdb")]
        assert not malformed


CUT = render_reply(REPLY.message(), thinking=True)


def test_a_cut_answer_shows_no_markup() -> None:
    """Cut anywhere by a token limit, what was shown is a start of the true answer."""
    for at in range(len(CUT.text)):
        events, _ = stream([CUT.text[:at]], thinking=True, truncated=True)
        reply = collect(events, thinking=True)
        assert REPLY.reasoning is not None and reply.reasoning is not None
        assert REPLY.reasoning.startswith(reply.reasoning.removesuffix("<").removesuffix("</"))
        assert REPLY.content.startswith(reply.content)
        assert REPLY.tool_calls[: len(reply.tool_calls)] == reply.tool_calls
        for event in events:
            if isinstance(event, ToolCallEnd):
                assert REPLY.tool_calls[event.index].arguments.startswith(event.arguments)  # type: ignore[union-attr, arg-type]


def test_a_cut_call_is_not_complete() -> None:
    text = block(invoke("f", parameter("a", "Beijing")))
    cut = text[: text.index("jing")]
    events, malformed = stream([cut], truncated=True)
    assert events == [
        ToolCallStart(0, "f"),
        ToolCallArgumentsDelta(0, '{"a": "Bei'),
        ToolCallEnd(0, '{"a": "Bei', complete=False),
    ]
    assert malformed == {"unclosed_invoke": 1}
    assert collect(events, thinking=False) == Reply(None, "")


def call_head(name: str) -> str:
    return f'<{D}tool_calls><{D}invoke name="{name}">'


@pytest.mark.parametrize(
    "start",
    ["", "\n\n<", call_head("f"), call_head("h"), f'{call_head("f")}<{D}parameter name="a'],
)
@pytest.mark.parametrize("filler", ["</", "\n", D, f"</{D}", "x" * 50])
@pytest.mark.parametrize("whole", [True, False])
def test_hostile_length_is_read_in_linear_time(start: str, filler: str, whole: bool) -> None:
    """Output that never ends what it began; read again and again it would take minutes."""
    parser = StreamParser(thinking=False, tools=[{"name": "f"}], markers="text")
    parser.feed(start)
    count = 400_000 // len(filler) if whole else 4_000
    for piece in [filler * count] if whole else [filler] * count:
        parser.feed(piece)
        assert len(parser._buffer) < 10_000
    parser.finish()


def test_half_a_character_in_json_can_be_sent() -> None:
    parser = StreamParser(thinking=False, tools=[{"name": "t"}])
    value = f'<{D}parameter name="a" string="false">"\\ud800"</{D}parameter>'
    text = f'<{D}tool_calls>\n<{D}invoke name="t">\n{value}\n</{D}invoke>\n</{D}tool_calls>'
    pieces = split_controls(text)
    events = [e for piece, control in pieces for e in parser.feed(piece, control=control)]
    end = events[-1]
    assert isinstance(end, ToolCallEnd) and end.arguments.encode() == '{"a": "\ufffd"}'.encode()
