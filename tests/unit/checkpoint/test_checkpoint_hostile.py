"""Damaged and malicious folders: one clear error each, and nothing loaded by halves."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import WEIGHTS, edit_config, edit_header, edit_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint.folder import INDEX_NAME
from dsv4.errors import CheckpointError, ConfigError

CALM = settings(max_examples=60, deadline=None, database=None)


def refused(folder: Path, *parts: str) -> str:
    """The message of the CheckpointError that loading raises; `parts` have to be in it."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    return message


def loads_or_says_why(intact: Path, spoil: Callable[[Path], object]) -> bool:
    """Whether a spoiled copy still loads; anything but our own errors is a failure."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(intact, folder)
        spoil(folder)
        try:
            model = checkpoint.load(folder)
        except (CheckpointError, ConfigError) as error:
            assert str(error) and "\n" not in str(error)
            return False
        assert all(not parameter.is_meta for parameter in model.parameters())
        return True


def header_length(folder: Path) -> int:
    (length,) = struct.unpack("<Q", (folder / WEIGHTS).read_bytes()[:8])
    return int(length)


@CALM
@given(data=st.data())
def test_truncated_anywhere(intact: Path, data: st.DataObject) -> None:
    size = (intact / WEIGHTS).stat().st_size
    head = header_length(intact)
    keep = data.draw(st.integers(0, size - 1) | st.integers(0, head + 9))
    assert not loads_or_says_why(intact, lambda copy: os.truncate(copy / WEIGHTS, keep))


@CALM
@given(extra=st.binary(min_size=1, max_size=40))
def test_longer_than_it_says(intact: Path, extra: bytes) -> None:
    def spoil(copy: Path) -> None:
        with (copy / WEIGHTS).open("ab") as file:
            file.write(extra)

    assert not loads_or_says_why(intact, spoil)


def flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


@settings(CALM, max_examples=150)
@given(data=st.data(), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header(intact: Path, data: st.DataObject, bit: int) -> None:
    position = data.draw(st.integers(0, 7 + header_length(intact)))
    loads_or_says_why(intact, lambda copy: flip(copy / WEIGHTS, position, bit))


@CALM
@given(data=st.data(), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_data(intact: Path, data: st.DataObject, bit: int) -> None:
    start = 8 + header_length(intact)
    position = data.draw(st.integers(start, (intact / WEIGHTS).stat().st_size - 1))
    loads_or_says_why(intact, lambda copy: flip(copy / WEIGHTS, position, bit))


@settings(CALM, max_examples=100)
@given(data=st.data(), bit=st.integers(0, 7), name=st.sampled_from(["config.json", INDEX_NAME]))
def test_a_flipped_bit_in_the_json(intact: Path, data: st.DataObject, bit: int, name: str) -> None:
    position = data.draw(st.integers(0, (intact / name).stat().st_size - 1))
    loads_or_says_why(intact, lambda copy: flip(copy / name, position, bit))


@CALM
@given(junk=st.binary(max_size=300))
def test_junk_instead_of_weights(intact: Path, junk: bytes) -> None:
    assert not loads_or_says_why(intact, lambda copy: (copy / WEIGHTS).write_bytes(junk))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@CALM
@given(entry=json_values, key=st.sampled_from(["shape", "dtype", "data_offsets", "extra"]))
def test_odd_claims_in_the_header(intact: Path, entry: Any, key: str) -> None:
    def claim(header: dict[str, Any]) -> None:
        header["head.weight"][key] = entry

    loads_or_says_why(intact, lambda copy: edit_header(copy, claim))


@CALM
@given(index=json_values | st.fixed_dictionaries({"weight_map": json_values}))
def test_odd_indices(intact: Path, index: Any) -> None:
    assert not loads_or_says_why(
        intact, lambda copy: (copy / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
    )


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"weight_map":' * 50_000])
def test_deeply_nested_json(folder: Path, deep: str) -> None:
    (folder / INDEX_NAME).write_text(deep)
    refused(folder, "not JSON")


PATHS = [
    "../x.safetensors",
    "/etc/passwd",
    "/tmp/x.safetensors",
    "sub/x.safetensors",
    "..\\x.safetensors",
    "C:x.safetensors",
    ".hidden.safetensors",
    "..safetensors",
    "x.safetensors\n",
    "x\0.safetensors",
    "x.bin",
    "",
    "~/x.safetensors",
    "\ud800.safetensors",
    "a" * 5000 + ".safetensors",
]


@pytest.mark.parametrize("name", PATHS)
def test_an_index_names_files_of_its_folder_only(folder: Path, name: str) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"]["head.weight"] = name
    (folder / INDEX_NAME).write_text(json.dumps(index))
    message = refused(folder, "head.weight")
    assert message.isascii() and len(message) < 500


def test_files_that_are_missing_are_named(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"]["head.weight"] = "model-00002-of-00002.safetensors"
    (folder / INDEX_NAME).write_text(json.dumps(index))
    refused(folder, "1 weight file (model-00002-of-00002.safetensors)", "missing")
    (folder / "model-00002-of-00002.safetensors").mkdir()
    refused(folder, "missing")


def test_an_index_that_disagrees_with_the_files(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"]["ghost.weight"] = WEIGHTS
    (folder / INDEX_NAME).write_text(json.dumps(index))
    refused(folder, "ghost.weight", INDEX_NAME)


def test_a_tensor_in_two_files(folder: Path) -> None:
    (folder / INDEX_NAME).unlink()
    shutil.copy(folder / WEIGHTS, folder / "model-00002.safetensors")
    refused(folder, "is in two files")


def test_every_problem_is_listed_at_once(folder: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        del tensors["norm.weight"], tensors["layers.1.attn.wkv.scale"]
        tensors["extra"] = torch.zeros(3)
        tensors["head.weight"] = tensors["head.weight"][:, :-1].contiguous()
        tensors["layers.0.attn.attn_sink"] = torch.zeros(2, dtype=torch.int64)

    edit_tensors(folder, spoil)
    refused(
        folder,
        "missing 2 tensors (layers.1.attn.wkv.scale, norm.weight)",
        "head.weight: BF16 [40, 95], expected BF16 or F32 or F16 [40, 96]",
        "layers.0.attn.attn_sink: I64 [2]",
        "unexpected 1 tensor (extra)",
    )


def test_long_lists_are_cut(folder: Path) -> None:
    norms = "norm.weight"
    edit_tensors(
        folder, lambda tensors: [tensors.pop(n) for n in sorted(tensors) if n.endswith(norms)]
    )
    message = refused(folder, "missing 23 tensors (", "and 13 more)")
    assert message.count(norms) == 10


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("layers.1.attn.wq_a.weight", lambda t: t.view(torch.int8), "expected"),
        ("layers.1.attn.wq_a.scale", lambda t: t[:, :0].contiguous(), "expected F8_E8M0 [1, 1]"),
        ("layers.1.attn.wq_a.scale", lambda t: t.view(torch.uint8), "U8 [1, 1]"),
        ("layers.0.ffn.experts.0.w1.scale", lambda t: t.float(), "expected F8_E8M0"),
        ("layers.0.ffn.experts.0.w1.weight", lambda t: t.view(torch.uint8), "U8 [160, 48]"),
        ("layers.1.attn.compressor.wkv.weight", lambda t: t.to(torch.float8_e4m3fn), "F8_E4M3"),
        ("layers.0.ffn.gate.tid2eid", lambda t: t.float(), "expected I64 or I32"),
        ("norm.weight", lambda t: t[None], "[1, 96]"),
    ],
)
def test_wrong_types_and_shapes(
    folder: Path, name: str, change: Callable[[Tensor], Tensor], said: str
) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({name: change(tensors[name])}))
    refused(folder, name, said)


@pytest.mark.parametrize("shape", [[2**62, 2**62], [2**40, 96], [40, 2**63], [-40, 96], [10**30]])
def test_huge_declared_sizes(folder: Path, shape: list[int]) -> None:
    def claim(header: dict[str, Any]) -> None:
        header["head.weight"]["shape"] = shape

    edit_header(folder, claim)
    refused(folder, "damaged")


def test_a_huge_declared_header(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    for length in (2**63, 2**64 - 1, len(raw), 10**9):
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + raw[8:])
        refused(folder, "damaged")


@pytest.mark.parametrize(
    "changes",
    [
        {"n_routed_experts": 2**31 - 1},
        {"vocab_size": 2**31 - 1},
        {"moe_intermediate_size": 2**31 - 1, "n_routed_experts": 10**6},
    ],
)
def test_a_configuration_that_claims_the_moon(folder: Path, changes: dict[str, int]) -> None:
    """Refused at once: no time or memory is spent on what is only claimed."""
    edit_config(folder, **changes)
    refused(folder, "does not fit its config.json")


def test_two_megabytes_in_one_value(folder: Path) -> None:
    edit_config(folder, torch_dtype="x" * (2 << 20))
    with pytest.raises(ConfigError, match="bytes"):
        checkpoint.load(folder)


NAN_CASES = {
    "head.weight": lambda t: t[0, 0].fill_(float("nan")),
    "norm.weight": lambda t: t[5].fill_(float("inf")),
    "layers.1.attn.wq_a.weight": lambda t: t.view(torch.uint8)[3, 3].fill_(0xFF),
    "layers.1.attn.wq_a.scale": lambda t: t.view(torch.uint8).fill_(255),
    "layers.2.ffn.experts.1.w2.scale": lambda t: t.view(torch.uint8)[7, 1].fill_(255),
    "layers.0.hc_attn_fn": lambda t: t[1, 1].fill_(float("nan")),
}


@pytest.mark.parametrize("name", NAN_CASES)
def test_values_no_model_can_have(folder: Path, name: str) -> None:
    edit_tensors(folder, lambda tensors: NAN_CASES[name](tensors[name]))
    refused(folder, f"{name}: NaN or infinite")


@pytest.mark.parametrize("expert", [3, -1, 2**40])
def test_routes_to_experts_that_do_not_exist(folder: Path, expert: int) -> None:
    name = "layers.0.ffn.gate.tid2eid"
    edit_tensors(folder, lambda tensors: tensors[name][0, 1].fill_(expert))
    refused(folder, f"{name}: an expert id outside 0..2")


def test_large_checkpoints_are_checked_in_part(folder: Path) -> None:
    """Without a full check a NaN in an expert passes, one in a small dense tensor does not."""
    edit_tensors(
        folder, lambda t: t["layers.2.ffn.experts.1.w2.scale"].view(torch.uint8)[7, 1].fill_(255)
    )
    checkpoint.load_with_report(folder, check_all_values=False)
    with pytest.raises(CheckpointError):
        checkpoint.load_with_report(folder, check_all_values=True)
    edit_tensors(folder, lambda t: t["norm.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"norm\.weight"):
        checkpoint.load_with_report(folder, check_all_values=False)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickles_are_never_opened(folder: Path, name: str) -> None:
    """Not even looked into: this one would run code."""
    (folder / WEIGHTS).unlink()
    (folder / INDEX_NAME).unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(folder, "pickled", name)
    assert not (folder / "pwned").exists() and not Path("pwned").exists()


def test_folders_without_a_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError):
        checkpoint.load(tmp_path / "nowhere")
    (folder / WEIGHTS).unlink()
    (folder / INDEX_NAME).unlink()
    refused(folder, "no model*.safetensors")


def test_control_characters_of_names_are_not_printed(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"evil\x1b[2J\nname": torch.zeros(1)}))
    assert "\x1b" not in refused(folder, "unexpected")
