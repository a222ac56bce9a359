"""Training a small tokenizer of V4's kind: the same pre-tokenizer and control tokens, fewer merges.

The pre-tokenizer is V4's: numbers in groups of three digits (or fewer, if asked), runs of CJK,
words and punctuation, then bytes (`pre_tokenizer` of the released tokenizer.json). Control tokens
keep their names and take the first ids, in the order of `CONTROL`: BOS 0, EOS 1, padding 2, as in
V4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dsv4.data.documents import Document, texts
from dsv4.encoding.control import BOS, EOS, RELEASED_IDS
from dsv4.errors import DataError
from dsv4.files import replace_text

PAD = "<｜▁pad▁｜>"
CONTROL = (BOS, EOS, PAD, *(token for token in RELEASED_IDS if token not in (BOS, EOS)))
_SPECIAL = (BOS, EOS, PAD)  # the only ones V4 flags "special", the rest decode as text

_CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
_WORDS = "|".join(
    (
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
SPLITS = (_CJK, _WORDS)
"""What V4's pre-tokenizer cuts texts at, after numbers."""


def train_tokenizer(
    documents: Iterable[Document], vocab_size: int, path: Path, *, digits: int = 3
) -> None:
    """Train a byte-level BPE on the documents' texts and write it to `path` (tokenizer.json).

    vocab_size counts everything: control tokens, the 256 bytes and the merges. digits: how many
    digits of a number are at most one token; V4 has 3, with 1 small models learn sums better.
    Raises DataError if vocab_size leaves no room for merges, if the texts do not yield that many,
    or if digits is not 1, 2 or 3.
    """
    if digits not in (1, 2, 3):
        raise DataError(f"numbers can not be cut into groups of {digits} digits", "1, 2 or 3")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(CONTROL) + len(alphabet)
    if vocab_size <= smallest:
        raise DataError(f"vocab_size {vocab_size} leaves no room for merges", f"above {smallest}")
    tokenizer = Tokenizer(models.BPE())
    numbers = rf"\p{{N}}{{1,{digits}}}"
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in (numbers, *SPLITS)]
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, levels])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(alphabet),
        special_tokens=list(CONTROL),
        show_progress=False,
    )
    tokenizer.train_from_iterator((t for item in documents for t in texts(item)), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise DataError(
            f"the texts give only {tokenizer.get_vocab_size()} of {vocab_size} tokens",
            "more text, a tokenizer.json that is there already, or a smaller vocabulary (preset)",
        )
    spec = json.loads(tokenizer.to_str())
    for token in spec["added_tokens"]:
        token["special"] = token["content"] in _SPECIAL
    replace_text(path, json.dumps(spec, ensure_ascii=False, indent=1))
