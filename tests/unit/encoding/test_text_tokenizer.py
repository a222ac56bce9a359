"""The tokenizer on a small vocabulary of V4's kind."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from encoding_cases import nasty_text, official, train
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.encoding.chat import render
from dsv4.encoding.control import BOS, CONTROL_TOKENS, EOS, RELEASED_IDS
from dsv4.encoding.tokenizer import Piece, Tokenizer
from dsv4.errors import EncodingError


def test_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 400
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    ids = [tokenizer.control_id(token) for token in CONTROL_TOKENS]
    assert ids == list(range(len(CONTROL_TOKENS)))
    assert [tokenizer.token(i) for i in ids] == list(CONTROL_TOKENS)
    assert all(map(tokenizer.is_control, ids)) and not tokenizer.is_control(len(ids))


def test_control_tokens_are_in_id_order_with_bos_and_eos_first() -> None:
    assert CONTROL_TOKENS[:2] == (BOS, EOS)
    ids = list(RELEASED_IDS.values())
    assert ids == sorted(ids) and len(set(ids)) == len(ids)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=nasty_text)
def test_text_survives_and_never_becomes_control(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not any(map(tokenizer.is_control, ids))
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_batch_is_the_same_as_one_by_one(tokenizer: Tokenizer) -> None:
    texts = ["a<think>b", "", "小柴胡", "half \ud83d"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_long_texts_let_other_threads_run(tokenizer: Tokenizer) -> None:
    text = " ".join(f"word{i} 小柴胡" for i in range(60_000))
    gaps, over = [0.0], threading.Event()

    def tick() -> None:
        last = time.monotonic()
        while not over.wait(0.001):
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.monotonic()
    ids = tokenizer.encode(text)
    took = time.monotonic() - began
    over.set()
    thread.join()
    assert max(gaps) < took / 2, "all others stood still"
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text[:4000]) == ids[: len(tokenizer.encode(text[:4000]))]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_prompts_keep_their_text_and_their_tokens(tokenizer: Tokenizer, number: int) -> None:
    messages, tools, expected = official(number)
    prompt = render(messages, tools=tools, thinking=number != 4)
    ids = tokenizer.encode_prompt(prompt)
    assert tokenizer.decode(ids) == expected
    controls = [tokenizer.token(i) for i in ids if tokenizer.is_control(i)]
    assert controls == [span.text for span in prompt.spans if span.is_control]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ids=st.lists(st.integers(0, 399), max_size=30))
def test_incremental_decoding_is_decoding(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Also for bytes that are no UTF-8."""
    decoder = tokenizer.decoder()
    pieces = [piece for i in ids for piece in decoder.feed(i)] + decoder.finish()
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(ids)
    parts: list[bytes] = []
    expected = ""
    for i in ids:
        if tokenizer.is_control(i):
            expected += b"".join(parts).decode(errors="replace") + tokenizer.token(i)
            parts = []
        else:
            parts.append(tokenizer.token_bytes(i))
    assert tokenizer.decode(ids) == expected + b"".join(parts).decode(errors="replace")
    controls = [piece.text for piece in pieces if piece.control]
    assert controls == [tokenizer.token(i) for i in ids if tokenizer.is_control(i)]


def test_incomplete_characters_are_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("😀")
    assert len(ids) == 4
    decoder = tokenizer.decoder()
    assert [decoder.feed(i) for i in ids] == [[], [], [], [Piece("😀", False)]]
    assert decoder.finish() == []
    assert decoder.feed(ids[0]) == []
    assert decoder.feed(0) == [Piece("\ufffd", False), Piece(BOS, True)]
    decoder.feed(ids[0])
    assert decoder.finish() == [Piece("\ufffd", False)]
    assert tokenizer.token(ids[0]) == "\ufffd"


@pytest.mark.parametrize("index", [-1, 400])
def test_ids_outside_the_vocabulary(tokenizer: Tokenizer, index: int) -> None:
    with pytest.raises(EncodingError, match=f"{index} is outside"):
        tokenizer.decode([index])


def test_ids_that_pad_the_model_are_empty(spec: str) -> None:
    """Models have more ids than their vocabulary; an untrained one can draw them."""
    tokenizer = Tokenizer(json.loads(spec), size=410)
    assert tokenizer.vocab_size == 400
    ids = [*tokenizer.encode("ab"), 409, *tokenizer.encode("c")]
    assert tokenizer.decode(ids) == "abc"
    assert tokenizer.token_bytes(400) == b"" and not tokenizer.is_control(400)
    with pytest.raises(EncodingError, match="410 is outside"):
        tokenizer.decode([410])


def test_unknown_control_token(tokenizer: Tokenizer) -> None:
    with pytest.raises(EncodingError, match="<robot>"):
        tokenizer.control_id("<robot>")


def test_missing_control_tokens_are_named(tmp_path: Path) -> None:
    kept = tuple(t for t in CONTROL_TOKENS if t not in ("<think>", "｜DSML｜"))
    path = train(tmp_path / "tokenizer.json", kept)
    with pytest.raises(EncodingError, match=r"lacks the control tokens <think>, ｜DSML｜"):
        Tokenizer.from_folder(tmp_path)
    fewer = tuple(t for t in CONTROL_TOKENS if "title" not in t)
    Tokenizer.from_file(train(path, fewer))


def test_unusable_files(tmp_path: Path, spec: str) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(EncodingError, match="No such file") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "tokenizer.json" in (caught.value.hint or "")
    damaged = json.loads(spec)
    damaged["model"]["merges"] = [["no", "such"]]
    other = json.loads(spec)
    other["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    for text, message in (
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (spec[:-100], "not JSON"),
        ("[]", "not a tokenizers file"),
        ("{}", "not a tokenizers file"),
        (json.dumps(damaged), "not a tokenizers file"),
        (json.dumps(other), "not a byte-level"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(EncodingError, match=message) as caught:
            Tokenizer.from_file(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(EncodingError, match="not JSON"):
        Tokenizer.from_file(path)


def test_a_vocabulary_whose_merges_make_a_control_token_is_refused(spec: str) -> None:
    """A word that is one ordinary token could be typed."""
    given = json.loads(spec)
    vocab = given["model"]["vocab"]
    word = max((token for token in vocab if token.isascii() and token.isalpha()), key=len)
    assert len(word) > 2
    given["added_tokens"].append({**given["added_tokens"][0], "id": vocab[word], "content": word})
    with pytest.raises(EncodingError, match=f"plain text '{word}' into a control token"):
        Tokenizer(given)


def test_truncation_and_padding_of_the_file_are_ignored(spec: str) -> None:
    given = json.loads(spec)
    given["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    text = "a long text with more than two tokens"
    assert Tokenizer(given).decode(Tokenizer(given).encode(text)) == text
