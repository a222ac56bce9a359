"""Readers: files in, documents out."""

import json
import lzma
from dataclasses import replace

import pytest

from dsv4.data.corpora import STANDARD_LIBRARY, Source, read, read_records
from dsv4.data.documents import Conversation, Infill, Text
from dsv4.errors import DataError, UsageError


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
    assert documents == [Text("é one"), Text("two")]


def test_kinds_select_records(tmp_path):
    records = [{"kind": k, "prompt": k, "response": "r"} for k in ("tale", "sql", "tale")]
    write(tmp_path / "a.jsonl", records)
    kept = read(Source("a", "*.jsonl", 1, "CC0", kinds=("tale",)), tmp_path)
    assert [d.messages[0].content for d in kept] == ["tale", "tale"]


def test_keep_takes_a_stable_share(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in range(2000)])
    source = Source("a", "a.jsonl", 1, "CC0", keep=0.25)
    kept = list(read(source, tmp_path))
    assert 420 < len(kept) < 580
    write(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in reversed(range(2000))])
    assert set(read(source, tmp_path)) == set(kept)


def test_standard_library_is_python_source():
    source = Source("py", STANDARD_LIBRARY, 1, "PSF-2.0", keep=0.02)
    texts = [document.text for document in read(source, None)]
    assert texts and all(len(text) < 20_000 for text in texts)
    compile(texts[0], "first", "exec")


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no-such.*\.jsonl"):
        read(Source("a", "no-such/*.jsonl", 1, "CC0"), tmp_path)


def test_patterns_may_begin_at_a_root(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": "one"}])
    for files in (str(tmp_path / "a.jsonl"), str(tmp_path / "*.jsonl")):
        assert list(read(Source("a", files, 1, "CC0"), tmp_path / "elsewhere")) == [Text("one")]
    with pytest.raises(DataError, match="names no files"):
        read(Source("a", "", 1, "CC0"), tmp_path)


def test_blank_lines_and_a_mark_at_the_beginning_are_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "one"}\n\n  \n{"text": "two"}\n\n')
    assert list(read(Source("a", "a.jsonl", 1, "CC0"), tmp_path)) == [Text("one"), Text("two")]


def test_a_record_of_an_unknown_shape_is_named_with_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n\n{"txt": "not so"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: a record has keys txt"):
        list(read(Source("a", "a.jsonl", 1, "CC0"), tmp_path))


@pytest.mark.parametrize("line", ["{", "[1]", '"text"'])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2") as error:
        list(read_records(tmp_path / "a.jsonl"))
    assert "line 1" not in str(error.value)


def test_a_truncated_archive_is_an_error(tmp_path):
    write(tmp_path / "a.jsonl.xz", [{"text": "word " * 1000}], compressed=True)
    whole = (tmp_path / "a.jsonl.xz").read_bytes()
    (tmp_path / "a.jsonl.xz").write_bytes(whole[:-20])
    with pytest.raises(DataError):
        list(read_records(tmp_path / "a.jsonl.xz"))


def test_a_task_is_a_source():
    source = Source("sums", "tasks:arithmetic", 1, "Apache-2.0", count=30, seed=5)
    documents = list(read(source, None))
    assert documents == list(read(source, None)) and len(set(map(repr, documents))) > 25
    assert all(isinstance(item, Conversation) for item in documents)
    assert {item.effort for item in documents} == {"off", "high", "max"}
    held = read(replace(source, split="heldout"), None)
    assert not set(map(repr, documents)) & set(map(repr, held))
    with pytest.raises(UsageError, match="no task 'sum'"):
        list(read(replace(source, files="tasks:sum"), None))


def test_splits_of_a_file_are_disjoint_and_do_not_depend_on_places(tmp_path):
    records = [{"id": f"d{i}", "text": f"document {i}"} for i in range(1000)]
    write(tmp_path / "a.jsonl", records)
    train, held = (
        list(read(Source("a", "a.jsonl", 1, "CC0", split=split), tmp_path))
        for split in ("train", "heldout")
    )
    assert 30 < len(held) < 75 and len(train) + len(held) == 1000
    write(tmp_path / "a.jsonl", records[::-1])
    assert set(read(Source("a", "a.jsonl", 1, "CC0", split="heldout"), tmp_path)) == set(held)


def test_infills_lose_nothing(tmp_path):
    short = [f"A short text of number {i}, with a few words." for i in range(200)]
    long = [f"{i} " + "word " * 900 for i in range(20)]
    write(tmp_path / "a.jsonl", [{"text": text} for text in short + long])
    source = Source("a", "a.jsonl", 1, "CC0", infill=0.5)
    documents = list(read(source, tmp_path))
    assert documents == list(read(source, tmp_path))
    infills = [item for item in documents if isinstance(item, Infill)]
    assert 80 < len(infills) < 140 and all(item.middle for item in infills)
    joined = [item.prefix + item.middle + item.suffix for item in infills]
    kept = {item.text for item in documents if isinstance(item, Text)}
    assert all(text in kept or text in joined for text in short)
    assert all(text.strip() in kept for text in long)
    assert all(len(text) <= 2000 for text in joined)


def test_keeping_a_share_and_holding_out_are_independent(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in range(4000)])

    def count(split):
        return len(list(read(Source("a", "a.jsonl", 1, "CC0", keep=0.25, split=split), tmp_path)))

    assert 850 < count("train") < 1050  # a quarter of 95 %
    assert 25 < count("heldout") < 80  # a quarter of 5 %
