"""A tokenizer.json as llama.cpp has it in a GGUF file: lists by id and a pre-tokenizer by name.

llama.cpp knows pre-tokenizers by name alone, so a vocabulary fits only if one of these cuts texts
as the file says.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsv4.data.tokenizer import SPLITS
from dsv4.encoding.control import BOS, EOS
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import CheckpointError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""llama.cpp's numbers of kinds of tokens."""

PRE = "deepseek-v3"
"""llama.cpp's name for the pre-tokenizer of V3 and V4, which cuts digits in groups of three."""
THREE_DIGITS = r"\p{N}{1,3}"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens`, `kinds`: of every id of the model. `merges`: two tokens with a space between."""

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    bos_id: int
    eos_id: int


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of a model with `size` ids.

    Raises CheckpointError if llama.cpp would cut texts otherwise, EncodingError for a file that is
    no V4 vocabulary.
    """
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(path, size)
    spec = json.loads(path.read_text(encoding="utf-8"))
    _check_cuts(path, spec, tokenizer)
    tokens = [f"[PAD{index}]" for index in range(size)]
    kinds = [UNUSED] * size
    for token, index in spec["model"]["vocab"].items():
        tokens[index], kinds[index] = token, NORMAL
    for added in spec["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], _kind(added)
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]
    ]
    return Vocabulary(tokens, kinds, merges, tokenizer.control_id(BOS), tokenizer.control_id(EOS))


def _kind(added: Mapping[str, Any]) -> int:
    """As llama.cpp's own converter has it: `<think>` and `｜DSML｜` are not control tokens, so
    that they are written into answers, where its parsers look for them."""
    special = added["special"] or re.fullmatch("<｜.*｜>", added["content"])
    return CONTROL if special else USER_DEFINED


def _check_cuts(path: Path, spec: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    digits, *others = _patterns(spec.get("pre_tokenizer")) or [""]
    fits = tuple(others) == SPLITS and re.fullmatch(r"\\p\{N\}\{1,[123]\}", digits)
    # Fewer digits at once are the same to it as long as there are no tokens of several.
    if not fits or (digits != THREE_DIGITS and any(_digits(tokenizer))):
        raise CheckpointError(
            f"{path} cuts texts otherwise than llama.cpp's {PRE}",
            "llama.cpp has no other pre-tokenizer of V4; move tokenizer.json away for a file that "
            "takes and gives ids",
        )


def _patterns(pre: Mapping[str, Any] | None) -> list[str]:
    """What texts are split at, in order."""
    steps = (pre or {}).get("pretokenizers") or []
    return [step["pattern"].get("Regex", "") for step in steps if step["type"] == "Split"]


def _digits(tokenizer: Tokenizer) -> Iterator[str]:
    """Tokens with a digit and another character."""
    for index in range(tokenizer.vocab_size):
        text = tokenizer.token(index)
        numeric = any(unicodedata.category(char).startswith("N") for char in text)
        if numeric and len(text) > 1 and not tokenizer.is_control(index):
            yield text
