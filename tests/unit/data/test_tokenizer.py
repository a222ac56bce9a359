"""Training a small tokenizer of V4's kind."""

import json

import pytest

from dsv4.data.documents import Text
from dsv4.data.tokenizer import CONTROL, train_tokenizer
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import DataError

TEXTS = [
    "Once upon a time there was a small dog. The dog liked to run in the park all day.",
    "def add(a, b):\n    return a + b\n\nprint(add(1234, 5))\n",
    "She said: don't worry, the weather's fine! 12345 stars, and 3.14 more.",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([Text(text) for text in TEXTS * 3], 340, path)
    return path


@pytest.mark.parametrize("text", [*TEXTS, "", "  \n\t x", "naïve 日本語 🙂", "\x00\x7f"])
def test_text_survives_a_round_trip(path, text):
    tokenizer = Tokenizer.from_file(path)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_vocabulary_has_the_asked_size_and_control_tokens_come_first(path):
    tokenizer = Tokenizer.from_file(path)
    assert tokenizer.vocab_size == 340
    assert [tokenizer.control_id(token) for token in CONTROL] == list(range(len(CONTROL)))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)


def test_merges_were_learned(path):
    tokenizer = Tokenizer.from_file(path)
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0]) / 2


def test_digits_are_grouped_by_three_as_in_v4(path):
    tokenizer = Tokenizer.from_file(path)
    assert tokenizer.encode("123456") == tokenizer.encode("123") + tokenizer.encode("456")


def test_digits_can_be_tokens_of_their_own(tmp_path):
    train_tokenizer([Text(text) for text in TEXTS * 3], 330, tmp_path / "t.json", digits=1)
    tokenizer = Tokenizer.from_file(tmp_path / "t.json")
    assert [tokenizer.token(index) for index in tokenizer.encode("12345")] == list("12345")
    with pytest.raises(DataError, match="0 digits"):
        train_tokenizer([Text(TEXTS[0])], 330, tmp_path / "t.json", digits=0)


def test_training_twice_gives_the_same_file(path, tmp_path):
    train_tokenizer([Text(text) for text in TEXTS * 3], 340, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())


@pytest.mark.parametrize("size", [200, 100_000])
def test_impossible_sizes_are_refused(tmp_path, size):
    with pytest.raises(DataError):
        train_tokenizer([Text(TEXTS[0])], size, tmp_path / "t.json")
