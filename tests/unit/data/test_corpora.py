"""Readers: files in, documents out."""

import json
import lzma

import pytest

from dsv4.data.corpora import STANDARD_LIBRARY, Source, read, read_records, to_document
from dsv4.data.documents import Document, Turn, encode_document
from dsv4.errors import DataError


class Letters:
    """A tokenizer whose ids are code points; control tokens are negative."""

    names = (
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "</think>",
    )

    def encode(self, text):
        return [ord(letter) for letter in text]

    def control_id(self, token):
        return -1 - self.names.index(token)


def write(path, records, compressed=False):
    text = "".join(json.dumps(record) + "\n" for record in records)
    opened = lzma.open if compressed else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize("compressed", [False, True])
def test_reads_plain_and_compressed_lines(tmp_path, compressed):
    path = tmp_path / ("a.jsonl.xz" if compressed else "a.jsonl")
    write(path, [{"text": "é one"}, {"text": " two "}, {"text": "  "}], compressed)
    documents = list(read(Source("a", path.name, 1, "CC0"), tmp_path))
    assert documents == [Document.plain("é one"), Document.plain("two")]


def test_every_record_shape(tmp_path):
    exchange = to_document({"prompt": "Q", "input": "data", "response": " A"}, tmp_path)
    assert exchange == Document.exchange("Q\ndata", "A")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    chat = to_document({"messages": messages}, tmp_path)
    assert chat == Document((Turn("user", "hi"), Turn("assistant", "hello")))
    called = [*messages, {"role": "assistant", "tool_call": {}}]
    assert to_document({"messages": called}, tmp_path) is None
    record = {"words": ["oak"], "pos": "n", "definition": "a tree", "examples": ["an old oak"]}
    answer = to_document(record, tmp_path).turns[1].text
    assert answer == 'oak (noun): a tree. Example: "an old oak"'


def test_kinds_select_records(tmp_path):
    records = [{"kind": k, "prompt": k, "response": "r"} for k in ("tale", "sql", "tale")]
    write(tmp_path / "a.jsonl", records)
    kept = read(Source("a", "*.jsonl", 1, "CC0", kinds=("tale",)), tmp_path)
    assert [d.turns[0].text for d in kept] == ["tale", "tale"]


def test_keep_takes_a_stable_share(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in range(2000)])
    source = Source("a", "a.jsonl", 1, "CC0", keep=0.25)
    kept = list(read(source, tmp_path))
    assert 420 < len(kept) < 580
    write(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in reversed(range(2000))])
    assert set(read(source, tmp_path)) == set(kept)


def test_standard_library_is_python_source():
    source = Source("py", STANDARD_LIBRARY, 1, "PSF-2.0", keep=0.02)
    texts = [document.turns[0].text for document in read(source, None)]
    assert texts and all(len(text) < 20_000 for text in texts)
    compile(texts[0], "first", "exec")


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no-such.*\.jsonl"):
        read(Source("a", "no-such/*.jsonl", 1, "CC0"), tmp_path)


@pytest.mark.parametrize("line", ["{", "[1]", '"text"'])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl.*line [12]"):
        list(read_records(tmp_path / "a.jsonl"))


def test_a_truncated_archive_is_an_error(tmp_path):
    write(tmp_path / "a.jsonl.xz", [{"text": "word " * 1000}], compressed=True)
    whole = (tmp_path / "a.jsonl.xz").read_bytes()
    (tmp_path / "a.jsonl.xz").write_bytes(whole[:-20])
    with pytest.raises(DataError):
        list(read_records(tmp_path / "a.jsonl.xz"))


@pytest.mark.parametrize("record", [{"body": "x"}, {"prompt": "q"}, {"text": 3}, {"messages": 3}])
def test_unknown_shapes_are_refused(tmp_path, record):
    with pytest.raises(DataError, match="record has keys"):
        to_document(record, tmp_path)


def test_text_is_wrapped_in_begin_and_end():
    assert encode_document(Letters(), Document.plain("ab")) == [-1, 97, 98, -2]


def test_conversations_follow_the_chat_encoding():
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"))
    ids = encode_document(Letters(), Document(turns))
    assert ids == [-1, -3, 97, -4, -5, 98, -2, -3, 99, -4, -5, 100, -2]
