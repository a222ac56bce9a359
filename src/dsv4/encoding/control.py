"""The control tokens of DeepSeek-V4, in one place.

A control token is one vocabulary entry that the template writes and that no user text may
become. The renderer, the parsers and the training of small vocabularies all use this list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
DSML = "｜DSML｜"
LATEST_REMINDER = "<｜latest_reminder｜>"
FIM_HOLE = "<｜fim▁hole｜>"
FIM_BEGIN = "<｜fim▁begin｜>"
FIM_END = "<｜fim▁end｜>"
EXTRACTED_URL = "<｜extracted_url｜>"

TASKS: Mapping[str, str] = MappingProxyType(
    {
        "action": "<｜action｜>",
        "query": "<｜query｜>",
        "authority": "<｜authority｜>",
        "domain": "<｜domain｜>",
        "title": "<｜title｜>",
        "read_url": "<｜read_url｜>",
    }
)
"""Quick tasks: the name in a message's `task` -> the token that asks for it."""

RELEASED_IDS: Mapping[str, int] = MappingProxyType(
    {
        BOS: 0,
        EOS: 1,
        FIM_HOLE: 128800,
        FIM_BEGIN: 128801,
        FIM_END: 128802,
        USER: 128803,
        ASSISTANT: 128804,
        THINK_OPEN: 128821,
        THINK_CLOSE: 128822,
        DSML: 128825,
        LATEST_REMINDER: 128828,
        TASKS["action"]: 128829,
        TASKS["query"]: 128830,
        TASKS["authority"]: 128831,
        TASKS["domain"]: 128832,
        TASKS["title"]: 128836,
        EXTRACTED_URL: 128844,
        TASKS["read_url"]: 128845,
    }
)
"""Every control token V4 prompts can contain -> its id in the released vocabulary."""

CONTROL_TOKENS: tuple[str, ...] = tuple(RELEASED_IDS)
"""In id order, BOS and EOS first: the order in which a small vocabulary should reserve them."""

REQUIRED_TOKENS: tuple[str, ...] = (BOS, EOS, USER, ASSISTANT, THINK_OPEN, THINK_CLOSE, DSML)
"""What a vocabulary must have to hold any conversation at all; the rest is checked on use."""

_ANY_CONTROL = re.compile("(" + "|".join(re.escape(token) for token in CONTROL_TOKENS) + ")")


def split_controls(text: str) -> list[tuple[str, bool]]:
    """Cut text at every control string -> (piece, is control), without empty pieces.

    Only for text known to come from the template or the model, never for user text.
    """
    pieces = _ANY_CONTROL.split(text)
    return [(piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]
