"""Canonical ids: which tokens count as one."""

from __future__ import annotations

import pytest

from dsv4.encoding.canonical import canonical_text, token_map
from dsv4.encoding.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Apple", "apple"),
        (" ÁPPLE\n", "apple"),
        ("ﬁne", "fine"),  # a ligature, by NFKC
        ("Ⅷ", "viii"),
        ("é", "e"),
        (" ", " "),
        ("\n\t \r", " "),
        ("a \n b", "a b"),
        ("\u0301", "\u0301"),  # nothing would be left of a lone accent
        ("", ""),
        ("中文", "中文"),
        ("!", "!"),
    ],
)
def test_what_a_token_is_compared_by(text: str, want: str) -> None:
    assert canonical_text(text) == want


def test_ids_count_what_was_seen_first() -> None:
    texts = ["a", "B", " A", "b", "\ufffd", "\ufffd", "\ufffdx", "\n", " ", ""]
    raw = ["a", "B", "ĠA", "b", "Ã", "Å", "Ã", "Ċ", "Ġ", ""]
    assert token_map(10, texts.__getitem__, raw.__getitem__) == [0, 1, 0, 1, 2, 3, 2, 4, 4, 5]


def test_a_vocabulary_and_the_ids_behind_it(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    ids = tokenizer.canonical_ids(size + 7)
    assert len(ids) == size + 7 and sorted(set(ids)) == list(range(max(ids) + 1))
    assert len(set(ids[size:])) == 1, "ids that are not used count as one"
    by_text = {tokenizer.token(i): ids[i] for i in range(size)}
    assert by_text["a"] == by_text["A"] != by_text["b"]
    assert by_text[" "] == by_text["\n"] == by_text["\t"]
    pieces = [ids[i] for i in range(size) if "\ufffd" in tokenizer.token(i)]
    assert len(set(pieces)) == len(pieces), "parts of characters are told apart"
    assert tokenizer.canonical_ids(size) == ids[:size]
