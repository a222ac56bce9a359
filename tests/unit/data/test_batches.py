"""Shards and batches: nothing lost, nothing mixed, resumable anywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsv4.data.batches import Batches, Mix, Position
from dsv4.data.corpora import Source
from dsv4.data.documents import Text, exchange
from dsv4.data.shards import Shard, build_shards, make_shard, open_shard
from dsv4.errors import DataError, UsageError


def shard(lengths, name="s", first=100):
    """Documents whose tokens count up without end, so that every token is unique."""
    offsets = np.cumsum([0, *lengths])
    tokens = np.arange(first, first + offsets[-1], dtype=np.uint32)
    return Shard(name, tokens, offsets)


def batches(shards, epochs=None, **settings):
    epochs = epochs or (1.0,) * len(shards)
    settings = {"batch_tokens": 512, "max_length": 128, "seed": 3} | settings
    return Batches(Mix(tuple(shards), tuple(epochs)), **settings)


def rows_of(stream, epoch=0):
    for index in range(stream.per_epoch(epoch)):
        batch = stream[Position(epoch, index)]
        for row, length in zip(batch.ids_BT, batch.length_B.tolist(), strict=True):
            yield row[:length].tolist(), row[length:].tolist()


def test_rows_hold_one_document_from_its_start_and_padding_after():
    lengths = [5, 60, 64, 65, 100, 128, 17, 3] * 16
    stream = batches([shard(lengths)])
    starts = set((100 + np.cumsum([0, *lengths])[:-1]).tolist())
    for row, padding in rows_of(stream):
        assert row[0] in starts
        assert row == list(range(row[0], row[0] + len(row)))
        assert set(padding) <= {2}


def test_long_documents_are_cut_so_that_every_token_is_predicted_once():
    stream = batches([shard([1000] * 8)], batch_tokens=128)
    predicted = [token for row, _ in rows_of(stream) for token in row[1:]]
    assert len(predicted) == len(set(predicted))
    starts = {100 + 1000 * d for d in range(8)}
    missing = set(range(100, 8100)) - set(predicted) - starts
    assert len(missing) <= 8 * 16  # tails shorter than 16 tokens are dropped


def test_all_batches_but_one_have_the_same_number_of_positions():
    stream = batches([shard([5, 70, 128, 300, 64] * 41)])
    sizes = [stream[Position(0, i)].ids_BT.numel() for i in range(stream.per_epoch())]
    (last,) = [size for size in sizes if size != 512]
    assert last < 512 and len(sizes) > 30


@given(
    st.lists(st.integers(2, 128), min_size=1, max_size=60),
    st.sampled_from([64, 128, 512, 4096]),
    st.integers(0, 3),
)
def test_an_epoch_has_every_document_once(lengths, batch_tokens, epoch):
    stream = batches([shard(lengths)], batch_tokens=batch_tokens)
    begun = sorted(row[0] for row, _ in rows_of(stream, epoch))
    assert begun == (100 + np.cumsum([0, *lengths])[:-1]).tolist()


def test_little_is_padded():
    draw = np.random.default_rng(0)
    stream = batches([shard(draw.integers(64, 129, 400).tolist())])
    real = sum(stream[Position(0, i)].tokens for i in range(stream.per_epoch()))
    assert real / (512 * stream.per_epoch()) > 0.7


def test_epochs_weigh_sources():
    a, b = shard([64] * 100, "a", 1000), shard([64] * 100, "b", 100_000)
    rows = [row for row, _ in rows_of(batches([a, b], (2.0, 0.5)))]
    firsts = sum(row[0] < 100_000 for row in rows)
    assert firsts == 200 and len(rows) - firsts == 50


def test_order_is_deterministic_and_differs_between_epochs_and_seeds():
    def order(seed, epoch):
        return [row[0] for row, _ in rows_of(batches([shard([64] * 64)], seed=seed), epoch)]

    assert order(3, 0) == order(3, 0)
    assert sorted(order(3, 1)) == sorted(order(3, 0)) != order(3, 1) != order(3, 0)
    assert order(4, 0) != order(3, 0)


def test_position_names_the_next_batch_across_epochs():
    stream = batches([shard([64] * 24)])
    position, seen = Position(), []
    for _ in range(7):
        batch, position = stream.next(position)
        seen.append((batch.ids_BT, position))
    assert seen[-1][1] == Position(2, 1)
    again = batches([shard([64] * 24)])
    batch, _ = again.next(seen[4][1])
    assert torch.equal(batch.ids_BT, seen[5][0])


def test_valid_marks_targets_inside_the_row():
    batch = batches([shard([3, 5])], batch_tokens=128)[Position()]
    assert batch.valid_BT(1).sum(1).tolist() == [n - 1 for n in batch.length_B.tolist()]
    assert batch.valid_BT(2).sum(1).tolist() == [n - 2 for n in batch.length_B.tolist()]


def test_an_empty_mix_is_refused():
    with pytest.raises(DataError, match="empty"):
        batches([shard([1, 1])])


class Bytes:
    """Counts how often it is asked to encode."""

    calls = 0

    def encode(self, text):
        self.calls += 1
        return list(text.encode())

    def control_id(self, token):
        return 0


def corpus(folder, count):
    lines = [f'{{"text": "document {i}"}}\n' for i in range(count)]
    (folder / "a.jsonl").write_text("".join(lines))
    return Source("a", "a.jsonl", 1.0, "CC0")


def test_shards_are_built_once_and_rebuilt_when_their_origin_changes(tmp_path):
    tokenizer, source = Bytes(), corpus(tmp_path, 3)

    def build(version="v1"):
        return build_shards(
            [source], tmp_path, tokenizer, 300, tmp_path / "shards", version=version
        )

    (first,) = build()
    assert tokenizer.calls == first.documents == 3 and first.tokens.dtype == np.uint16
    assert bytes(first.tokens[1 : first.offsets[1] - 1].astype(np.uint8)) == b"document 0"
    build()
    assert tokenizer.calls == 3
    build("v2")
    assert tokenizer.calls == 6
    corpus(tmp_path, 5)
    assert build("v2")[0].documents == 5
    path = tmp_path / "a.jsonl"
    path.write_text(path.read_text().replace("document 4", "document X"))  # of the same size
    assert bytes(build("v2")[0].tokens[-3:-1].astype(np.uint8)) == b" X"


def test_shards_stand_for_corpora_that_are_not_here(tmp_path):
    source, elsewhere = corpus(tmp_path, 3), tmp_path / "elsewhere"
    out = tmp_path / "shards"
    (made,) = build_shards([source], tmp_path, Bytes(), 300, out, version="v")
    (found,) = build_shards([source], elsewhere, Bytes(), 300, out, version="v")
    assert found.tokens.tolist() == made.tokens.tolist()
    for changed, version in ((source, "w"), (replace(source, keep=0.5), "v")):
        with pytest.raises(DataError, match="no file matches"):
            build_shards([changed], elsewhere, Bytes(), 300, out, version=version)


def test_a_source_without_documents_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    source = Source("a", "a.jsonl", 1.0, "CC0")
    with pytest.raises(DataError, match="no documents"):
        build_shards([source], tmp_path, Bytes(), 300, tmp_path / "s", version="v")


def test_two_sources_of_one_name_are_refused(tmp_path):
    source = corpus(tmp_path, 3)
    with pytest.raises(UsageError, match=f"two sources are called '{source.name}'"):
        build_shards([source, source], tmp_path, Bytes(), 300, tmp_path / "s", version="v")
    assert not (tmp_path / "s").exists()


def test_a_damaged_index_is_refused(tmp_path):
    sources = [corpus(tmp_path, 3)]
    build_shards(sources, tmp_path, Bytes(), 300, tmp_path / "s", version="v")
    index = tmp_path / "s" / "index.json"
    index.write_text(index.read_text()[:-5])
    with pytest.raises(DataError, match=r"index\.json is damaged") as error:
        build_shards(sources, tmp_path, Bytes(), 300, tmp_path / "s", version="v")
    assert error.value.hint == "delete the folder"


@pytest.mark.parametrize("part", ["tokens", "offsets", "learned"])
def test_a_damaged_shard_is_refused(tmp_path, part):
    build_shards([corpus(tmp_path, 3)], tmp_path, Bytes(), 300, tmp_path / "s", version="v")
    path = tmp_path / "s" / f"a.{part}.npy"
    whole = np.load(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="readable"):
        open_shard(tmp_path / "s", "a")
    np.save(path, whole[:-1])
    with pytest.raises(DataError, match="damaged"):
        open_shard(tmp_path / "s", "a")


def test_the_mask_of_a_shard_reaches_the_batch_in_every_slice(tmp_path):
    masks = np.random.default_rng(1).random(1000) < 0.5
    offsets = np.array([0, 300, 303, 700, 1000])
    packed = Shard("s", np.arange(1000, dtype=np.uint32), offsets, np.packbits(masks))
    assert all(
        (packed.mask(a, b - a) == masks[a:b]).all() for a, b in [(0, 9), (3, 5), (991, 1000)]
    )
    for shards, expected in [([packed], masks), ([shard([1000], first=0)], np.ones(1000, bool))]:
        mix = Mix(tuple(shards), (1.0,), masked=True)
        stream = Batches(mix, batch_tokens=256, max_length=128, seed=3)
        for index in range(stream.per_epoch()):
            batch = stream[Position(0, index)]
            for ids, learned, n in zip(batch.ids_BT, batch.learned_BT, batch.length_B, strict=True):
                assert learned[:n].tolist() == expected[ids[:n].numpy()].tolist()
                assert not learned[n:].any()
    assert batches([packed])[Position()].learned_BT is None


def test_shards_keep_the_mask_on_disk(tmp_path):
    made = make_shard("s", [exchange("ab", "cde"), Text("f")], Bytes(), 300)
    assert made.mask(0, 10).tolist() == [False] * 6 + [True] * 4
    assert made.mask(10, 3).tolist() == [False, True, True]
    build_shards([corpus(tmp_path, 3)], tmp_path, Bytes(), 300, tmp_path / "s", version="v")
    opened = open_shard(tmp_path / "s", "a")
    assert opened.mask(0, 12).tolist() == [False] + [True] * 11
