"""Damaged and malicious folders: one clear error each, and nothing loaded by halves."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import WEIGHTS, edit_config, edit_header, edit_tensors, same_weight
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint import layout, plan, values
from dsv4.checkpoint.folder import INDEX_NAME, Stored, read_stored
from dsv4.errors import CheckpointError, ConfigError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import weights
from dsv4.numerics.quantized import QuantizedTensor

CALM = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def refused(folder: Path, *parts: str) -> str:
    """The message of the CheckpointError that loading raises; `parts` have to be in it."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    return message


def loads_or_says_why(
    intact: Path, spoil: Callable[[Path], object], changed_weights: int = 0
) -> bool:
    """Whether a spoiled copy still loads; anything but our own errors is a failure.

    What loads has all weights of its configuration, all finite, and all but `changed_weights`
    of them are those of the intact folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(intact, folder)
        spoil(folder)
        try:
            model = checkpoint.load(folder)
        except (CheckpointError, ConfigError) as error:
            assert str(error) and "\n" not in str(error)
            return False
        assert_complete(model)
        before, after = dict(weights(checkpoint.load(intact))), dict(weights(model))
        assert before.keys() == after.keys()
        changed = [name for name in before if not same_weight(before[name], after[name])]
        assert len(changed) == changed_weights, changed
        return True


def assert_complete(model: Transformer) -> None:
    """Every weight of the model's configuration is there, of the right shape, and a number."""
    found = dict(weights(model))
    shapes = {p.name: p.shape for p in layout.parameters(model.config)}
    assert {name: tuple(weight.shape) for name, weight in found.items()} == shapes
    for name, weight in found.items():
        dense = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
        assert not dense.is_meta and dense.isfinite().all(), name


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


def test_a_flipped_bit_in_the_header(intact: Path) -> None:
    """Refused, or (in the metadata, which mean nothing here) without any effect."""
    metadata = (intact / WEIGHTS).read_bytes().index(b'"pt"') + 1
    anywhere = st.integers(0, 7 + header_length(intact))
    outcomes: Counter[bool] = Counter()

    @settings(CALM, max_examples=120)
    @given(position=anywhere | st.sampled_from([metadata, metadata + 1]), bit=st.integers(0, 7))
    def flipped(position: int, bit: int) -> None:
        loads = loads_or_says_why(intact, lambda copy: flip(copy / WEIGHTS, position, bit))
        outcomes[loads] += 1

    flipped()
    assert outcomes[True] and outcomes[False], outcomes


def test_a_flipped_bit_in_the_data(intact: Path) -> None:
    """Refused, or one weight differs: a number that is another number cannot be told."""
    by_dtype: dict[str, list[Stored]] = {}
    for stored in read_stored(intact).values():
        by_dtype.setdefault(stored.dtype, []).append(stored)
    outcomes: Counter[bool] = Counter()

    @CALM
    @given(data=st.data(), dtype=st.sampled_from(sorted(by_dtype)), bit=st.integers(0, 7))
    def flipped(data: st.DataObject, dtype: str, bit: int) -> None:
        stored = data.draw(st.sampled_from(by_dtype[dtype]))
        position = stored.offset + data.draw(st.integers(0, stored.nbytes - 1))
        loads = loads_or_says_why(intact, lambda copy: flip(copy / WEIGHTS, position, bit), 1)
        outcomes[loads] += 1

    flipped()
    assert outcomes[True] and outcomes[False], outcomes


@pytest.mark.parametrize("name", ["config.json", INDEX_NAME])
def test_a_flipped_bit_in_the_json(intact: Path, name: str) -> None:
    """Refused, or the same weights: nothing but sizes and names decides which are loaded."""
    text = (intact / name).read_bytes()
    harmless = {"config.json": b"rms_norm_eps", INDEX_NAME: b"total_size"}[name]
    start = text.index(harmless) + len(harmless) + 3
    outcomes: Counter[bool] = Counter()

    @CALM
    @given(
        position=st.integers(0, len(text) - 1) | st.integers(start, start + 3),
        bit=st.integers(0, 7),
    )
    def flipped(position: int, bit: int) -> None:
        loads = loads_or_says_why(intact, lambda copy: flip(copy / name, position, bit))
        outcomes[loads] += 1

    flipped()
    assert outcomes[True] and outcomes[False], outcomes


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
        {"n_routed_experts": 1 << 16},
        {"vocab_size": 2**31 - 1},
        {"moe_intermediate_size": 2**31 - 1, "n_routed_experts": 1 << 16},
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
    refused(folder, f"{name}: an id outside 0..2")


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


def test_scales_are_checked_before_the_reading_budget_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkpoint too large to read: all dense scales, and experts' scales first of the rest.

    What was left out is said.
    """
    monkeypatch.setattr(values, "SMALL_TENSOR_BYTES", 0)
    scales = sum(
        stored.nbytes for stored in read_stored(folder).values() if ".experts." in stored.name
    )
    monkeypatch.setattr(values, "READ_BYTES", scales)
    _, report = checkpoint.load_with_report(folder)
    assert any("not looked through for NaN" in note for note in report.notes)
    edit_tensors(
        folder, lambda t: t["layers.2.ffn.experts.1.w2.scale"].view(torch.uint8)[7, 1].fill_(255)
    )
    refused(folder, "layers.2.ffn.experts.1.w2.scale: NaN")
    monkeypatch.setattr(values, "READ_BYTES", 0)
    checkpoint.load(folder)
    edit_tensors(folder, lambda t: t["layers.1.attn.wq_a.scale"].view(torch.uint8).fill_(255))
    refused(folder, "layers.1.attn.wq_a.scale: NaN")


def test_a_reading_budget_is_spent_all_over_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the budget that the experts' scales need: some of every layer are read."""
    found = read_stored(folder).values()
    scales = [s for s in found if ".ffn.experts." in s.name and s.name.endswith(".scale")]
    monkeypatch.setattr(values, "READ_BYTES", sum(s.nbytes for s in scales) // 2)
    edit_tensors(
        folder, lambda tensors: [tensors[s.name].view(torch.uint8).fill_(255) for s in scales]
    )
    monkeypatch.setattr(values, "listing", lambda items, noun: " ".join(items))
    message = refused(folder, *(f"layers.{layer}.ffn.experts." for layer in range(3)), "mtp.0.ffn")
    assert len(scales) * 0.4 <= message.count("NaN") <= len(scales) * 0.6


def test_much_data_at_odd_places_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such tensors have to be copied, so a file full of them would not stay on disk."""
    edit_header(folder, lambda header: header.update(__metadata__={"pad": "x" * 7}))
    raw = (folder / WEIGHTS).read_bytes()
    assert (8 + int.from_bytes(raw[:8], "little")) % 2
    wide = sum(s.nbytes for s in read_stored(folder).values() if s.dtype in ("F32", "BF16", "I64"))
    monkeypatch.setattr(plan, "MAX_COPIED_BYTES", wide)
    checkpoint.load(folder)
    monkeypatch.setattr(plan, "MAX_COPIED_BYTES", wide - 1)
    refused(folder, "cannot be used in place")


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
