"""Random answers under a grammar, for the tests of this folder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from dsv4.chat.grammar import Grammars
from dsv4.chat.request import Request
from dsv4.chat.rules import rules
from dsv4.encoding.events import Reply, collect
from dsv4.encoding.stream import StreamParser
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engine.constraint import Constraint

HELLO = [{"role": "user", "content": "hello"}]
PATIENCE = 20
"""Tokens of a segment after which a random answer takes what leads to its end."""


def constraint_of(
    grammars: Grammars, *, thinking: bool = False, begun: str = "", **fields: Any
) -> Constraint:
    """The constraint of a request with these fields."""
    made = rules(Request(HELLO, **fields), grammars, thinking=thinking, begun=begun)
    assert made is not None
    return made.constraint()


def draw(constraint: Constraint, tokenizer: Tokenizer, seed: int, most: int = 3000) -> list[int]:
    """Ids drawn at random from what is allowed, up to EOS, which is not among them.

    Text goes on for a while; then control tokens and short tokens that close something are
    preferred, so that the answer ends.
    """
    chooser = random.Random(seed)
    ids: list[int] = []
    since = 0
    while len(ids) < most:
        mask_V = constraint.allowed()
        assert mask_V is not None
        allowed = mask_V.nonzero()[:, 0].tolist()
        assert allowed, tokenizer.decode(ids)
        ends = [token for token in allowed if tokenizer.is_control(token)]
        token = chooser.choice(allowed)
        if ends and (since > PATIENCE or chooser.random() < 0.1):
            token = chooser.choice(ends)
        elif since > PATIENCE or len(ids) > 300:
            closing = [t for t in allowed if tokenizer.token(t) in _CLOSING]
            token = chooser.choice(closing or allowed)
        constraint.accept(token)
        if token == tokenizer.eos_id:
            return ids
        since = 0 if tokenizer.is_control(token) else since + 1
        ids.append(token)
    raise AssertionError(f"no end: {tokenizer.decode(ids)[:2000]}")


_CLOSING = frozenset(('"', "]", "}", "<", "</", "/", "0"))


def read(
    ids: Sequence[int], tokenizer: Tokenizer, tools: Sequence[Any], *, thinking: bool = False
) -> tuple[Reply, dict[str, int]]:
    """What the stream parser makes of an answer, and what it found malformed."""
    parser, decoder = StreamParser(thinking=thinking, tools=tools), tokenizer.decoder()
    pieces = [piece for index in ids for piece in decoder.feed(index)] + decoder.finish()
    events = [e for piece in pieces for e in parser.feed(piece.text, control=piece.control)]
    return collect([*events, *parser.finish()], thinking=thinking), dict(parser.malformed)
