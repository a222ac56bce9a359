"""What several encoding tests share: the official pairs, generated replies, and feeding."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from dsv4.encoding.control import CONTROL_TOKENS
from dsv4.encoding.dsml import json_text
from dsv4.encoding.events import Event, Reply, merge
from dsv4.encoding.messages import ToolCall
from dsv4.encoding.stream import StreamParser

NUMBERS = r"\p{N}{1,3}"
CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The quick brown fox thinks: <think> is a tag, </think> closes it.",
    'call the tool <invoke name="get_weather"> parameter string tool_calls in Beijing',
    "小柴胡冲剂和布洛芬能一起吃吗？ 今天是2025年10月17日",
    "def add(a, b):\n    return a + b\n",
] * 20


def train(path: Path, control: tuple[str, ...] = CONTROL_TOKENS) -> Path:
    """Write a 400-entry tokenizer.json."""
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(r), "isolated") for r in (NUMBERS, CJK, WORDS)),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=list(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator(CORPUS, trainer)
    raw.save(str(path))
    return path


DATA = Path(__file__).parent / "data"
D = "｜DSML｜"


def official(number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None, str]:
    """Messages, tools and expected prompt of an official pair."""
    given = json.loads((DATA / f"test_input_{number}.json").read_text(encoding="utf-8"))
    expected = (DATA / f"test_output_{number}.txt").read_text(encoding="utf-8")
    if isinstance(given, dict):
        return given["messages"], given["tools"], expected
    return given, None, expected


def tool(name: str, **types: str) -> dict[str, Any]:
    """An OpenAI tool whose parameters have the given JSON types."""
    schema = {"type": "object", "properties": {k: {"type": t} for k, t in types.items()}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def block(*invokes: str, wrapper: str = "tool_calls") -> str:
    return f"\n\n<{D}{wrapper}>\n" + "\n".join(invokes) + f"\n</{D}{wrapper}>"


def invoke(name: str, *parameters: str) -> str:
    return f'<{D}invoke name="{name}">\n' + "\n".join(parameters) + f"\n</{D}invoke>"


def parameter(key: str, value: str, attribute: str = ' string="true"') -> str:
    return f'<{D}parameter name="{key}"{attribute}>{value}</{D}parameter>'


Outcome = tuple[list[Event], Counter[str]]


def stream(
    pieces: Iterable[str],
    *,
    thinking: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    truncated: bool = False,
    bare_invokes: bool = False,
) -> Outcome:
    """Merged events and malformed counts of text fed without knowledge of its tokens."""
    parser = StreamParser(thinking=thinking, tools=tools, markers="text", bare_invokes=bare_invokes)
    events = [event for piece in pieces for event in parser.feed(piece)]
    events += parser.finish(truncated=truncated)
    assert parser.done
    return merge(events), +parser.malformed


def stream_spans(
    spans: Iterable[tuple[str, bool]],
    *,
    thinking: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
    step: int = 1,
    truncated: bool = False,
) -> Outcome:
    """The same for spans of known tokens, their text in pieces of `step` characters."""
    parser = StreamParser(thinking=thinking, tools=tools)
    events: list[Event] = []
    for text, control in spans:
        cuts = [text] if control else [text[i : i + step] for i in range(0, len(text), step)]
        for piece in cuts:
            events += parser.feed(piece, control=control)
    events += parser.finish(truncated=truncated)
    return merge(events), +parser.malformed


NASTY = [*CONTROL_TOKENS, "<", "</", "｜", "<｜", "｜DSML", f"<{D}tool_calls>", "\n", "\n\n"]
"""Text that looks like markup or the start of it."""

_CHARACTERS = st.characters(exclude_categories=["Cs"])
_WORDS = st.sampled_from(
    ['"', "\\", "\n", "\n\n", "<", "</", "｜", "<｜", "{", "é", "小", "😀", " a"]
)
plain_text = st.lists(st.one_of(_WORDS, st.text(_CHARACTERS, max_size=6)), max_size=6).map("".join)
"""Any text, rich in quotes, brackets and newlines, without a whole control string."""
harmless_text = plain_text.filter(lambda text: not any(token in text for token in CONTROL_TOKENS))
nasty_text = st.lists(st.one_of(st.sampled_from(NASTY), plain_text), max_size=5).map("".join)
"""Text with control strings, whole and broken."""

_names = st.text("abcXYZ_-09", min_size=1, max_size=12)


def replies(text: st.SearchStrategy[str]) -> st.SearchStrategy[Reply]:
    """Thinking replies whose reasoning, content and values are drawn from `text`."""
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        text,
    )
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)
        ),
        max_leaves=5,
    )
    arguments = st.dictionaries(st.text("abc é小_.'", min_size=1, max_size=6), values, max_size=3)
    calls = st.builds(
        lambda name, given: ToolCall(name, json_text(given)), name=_names, given=arguments
    )
    return st.builds(Reply, text, text, st.lists(calls, max_size=3).map(tuple))
