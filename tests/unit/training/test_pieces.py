"""Tensors in files of limited size: nothing is lost, and damage is seen."""

import pytest
import torch

from dsv4.errors import CheckpointError
from dsv4.training import pieces


def some_tensors():
    draw = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 5, generator=draw),
        "large": torch.randn(40, 25, 3, generator=draw),
        "b@name": torch.arange(7),
        "scalar": torch.tensor(3.5),
        "half": torch.randn(6, generator=draw).bfloat16(),
        "turned": torch.randn(8, 4, generator=draw).T,
    }


@pytest.mark.parametrize("piece_bytes", [100, 1000, 1 << 20])
def test_what_was_written_is_read(tmp_path, piece_bytes):
    tensors = some_tensors()
    sums = pieces.write(tmp_path, "kind", tensors.items(), piece_bytes)
    read = pieces.read(tmp_path, "kind", sums)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


def test_no_file_is_larger_than_allowed(tmp_path):
    sums = pieces.write(tmp_path, "kind", some_tensors().items(), 1000)
    assert len(sums) >= 13  # 12 000 bytes of one tensor, and the others
    header = 1000  # names, places and shapes
    assert all(nbytes <= 1000 + header for nbytes, _ in sums.values())
    assert {path.name for path in tmp_path.iterdir()} == set(sums)


def test_kinds_do_not_mix_and_may_be_empty(tmp_path):
    sums = pieces.write(tmp_path, "one", {"x": torch.ones(2)}.items(), 100)
    sums |= pieces.write(tmp_path, "two", {}.items(), 100)
    assert set(pieces.read(tmp_path, "one", sums)) == {"x"}
    assert pieces.read(tmp_path, "two", sums) == {}


def test_damage_is_seen(tmp_path):
    sums = pieces.write(tmp_path, "kind", some_tensors().items(), 1000)
    path = tmp_path / sorted(sums)[3]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        pieces.read(tmp_path, "kind", sums)
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        pieces.read(tmp_path, "kind", sums)
