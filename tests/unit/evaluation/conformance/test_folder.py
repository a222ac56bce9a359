"""What is found in a folder before anything is computed: one damage at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint.plan import make_plan
from dsv4.config import HCA, SWA
from dsv4.evaluation.conformance import headers
from dsv4.evaluation.conformance.contents import check_contents
from dsv4.evaluation.conformance.finding import Finding
from dsv4.evaluation.conformance.headers import check_headers
from dsv4.evaluation.conformance.vocabulary import check_vocabulary
from dsv4.presets import preset

Damaged = Callable[..., Path]


def contents(folder: Path) -> list[Finding]:
    return check_contents(make_plan(folder), 3)


def test_a_sound_folder(three_layers: Path) -> None:
    plan, found = check_headers(three_layers)
    assert plan is not None and found == []
    assert check_vocabulary(plan) == []
    assert contents(three_layers) == []


def test_a_tensor_of_another_shape(damaged: Damaged) -> None:
    folder = damaged("layers.1.attn.kv_norm.weight", lambda x: x[:-1].contiguous())
    plan, (finding,) = check_headers(folder)
    assert plan is None and finding.severity == "error"
    assert "layers.1.attn.kv_norm.weight" in finding.what


def test_compress_ratios_off_by_one_layer(damaged: Damaged) -> None:
    # Pitfall 22: the list has an entry for the MTP block too, and counting from its end shifts it.
    folder = damaged(config={"compress_ratios": [4, 128, 0, 0]})
    plan, (finding,) = check_headers(folder)
    assert plan is None and finding.resembles == headers.SHIFTED


def test_layers_counted_from_the_length_of_compress_ratios(damaged: Damaged) -> None:
    folder = damaged(config={"num_hidden_layers": 4, "num_nextn_predict_layers": 0})
    plan, (finding,) = check_headers(folder)
    assert plan is None and finding.resembles == headers.COUNTED


def test_other_damage_is_not_called_off_by_one(damaged: Damaged) -> None:
    folder = damaged(config={"compress_ratios": [SWA, HCA, HCA, SWA]})
    plan, (finding,) = check_headers(folder)
    assert plan is None and finding.resembles is None


def test_a_setting_that_the_release_has_otherwise() -> None:
    changed = dataclasses.replace(preset("flash"), compress_rope_theta=40000.0)
    (finding,) = headers._released(changed)
    assert finding.severity == "warning" and finding.resembles == "one-rope-base"
    assert "compress_rope_theta is 40000.0, in the released flash 160000.0" in finding.what
    assert headers._released(preset("flash")) == headers._released(preset("pro")) == []
    assert headers._released(preset("flash-base")) == []
    assert headers._released(preset("nano")) == []


def test_sizes_that_the_index_has_otherwise(damaged: Damaged) -> None:
    folder = damaged(**{"model.safetensors.index": {"metadata": {"total_size": 12}}})
    _, (finding,) = check_headers(folder)
    assert finding.severity == "warning" and "says 12 bytes" in finding.what


def test_float32_scales_are_said_to_be_bytes(tmp_path: Path) -> None:
    config = dataclasses.replace(preset("tiny"), expert_dtype="fp8", scale_dtype="f32")
    checkpoint.synth(config, tmp_path / "base")
    _, (finding,) = check_headers(tmp_path / "base")
    assert finding.severity == "note" and finding.resembles == "scales-as-numbers"
    assert check_contents(make_plan(tmp_path / "base"), 5) == []


def test_experts_of_another_format_than_quant_method_says(damaged: Damaged) -> None:
    folder = damaged()
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["expert_dtype"]
    path.write_text(json.dumps(values), encoding="utf-8")
    plan, (note,) = check_headers(folder)
    assert plan is not None and plan.config.expert_dtype == "fp4"
    assert note.severity == "note" and note.resembles == headers.EXPERTS
    assert note.what.endswith("quant_method fp8 and no expert_dtype; experts are fp4")
    path.write_text(json.dumps(values | {"expert_dtype": "fp8"}), encoding="utf-8")
    plan, (warning,) = check_headers(folder)
    assert plan is not None and plan.config.expert_dtype == "fp4"
    assert warning.severity == "warning" and warning.resembles == headers.EXPERTS


# Vocabulary.


def vocabulary(folder: Path) -> list[Finding]:
    return check_vocabulary(make_plan(folder))


def test_no_tokenizer(damaged: Damaged) -> None:
    folder = damaged()
    (folder / "tokenizer.json").unlink()
    (finding,) = vocabulary(folder)
    assert finding.severity == "warning"


def test_a_tokenizer_with_more_ids_than_the_model(damaged: Damaged) -> None:
    folder = damaged()
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    spec["added_tokens"].append(spec["added_tokens"][-1] | {"id": 999, "content": "<|more|>"})
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (finding,) = vocabulary(folder)
    assert finding.severity == "error" and "ids up to 999" in finding.what


@pytest.mark.parametrize("name", ["config", "generation_config"])
def test_another_end_of_text(damaged: Damaged, name: str) -> None:
    (finding,) = vocabulary(damaged(**{name: {"eos_token_id": 7}}))
    assert finding.where == f"{name}.json" and "eos_token_id is 7" in finding.what


def test_control_tokens_of_a_released_vocabulary(three_layers: Path) -> None:
    from dsv4.encoding.tokenizer import Tokenizer
    from dsv4.evaluation.conformance import vocabulary as module

    found = module._special(three_layers, Tokenizer.from_folder(three_layers), 129280)
    assert "<think> is id 7, not id 128821" in {finding.what for finding in found}
    assert all(finding.severity == "error" for finding in found)
    assert len(found) == 16  # all but the first two of eighteen


# Contents.


def zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def with_code(code: int) -> Callable[[Tensor], Tensor]:
    """A tensor of bytes whose last one is `code`."""

    def change(x: Tensor) -> Tensor:
        x.view(torch.uint8).flatten()[-1] = code
        return x

    return change


def with_nan(x: Tensor) -> Tensor:
    x.view(-1)[3] = torch.nan
    return x


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layers.2.attn.wq_a.weight", with_code(0x7F)),
        ("layers.2.attn.wq_a.weight", with_code(0xFF)),
        ("layers.2.attn.wq_a.scale", with_code(255)),
        ("layers.0.ffn.experts.7.w2.scale", with_code(255)),
        ("layers.1.attn.compressor.wkv.weight", with_nan),
        ("layers.1.hc_attn_fn", with_nan),
        ("mtp.0.e_proj.weight", with_code(0x7F)),
    ],
)
def test_numbers_that_are_none(
    damaged: Damaged, name: str, change: Callable[[Tensor], Tensor]
) -> None:
    (finding,) = contents(damaged(name, change))
    assert finding.where == name and finding.what == "a NaN or an infinity is stored"


@pytest.mark.parametrize(
    "name",
    [
        "layers.2.attn.wq_a.weight",
        "layers.0.ffn.experts.3.w1.weight",
        "layers.1.attn_norm.weight",
        "embed.weight",
    ],
)
def test_dead_tensors(damaged: Damaged, name: str) -> None:
    (finding,) = contents(damaged(name, zeros))
    assert finding.where == name and finding.severity == "error"
    assert finding.what == "all its numbers are zero"


def test_minus_zero_is_zero(damaged: Damaged) -> None:
    folder = damaged("layers.0.ffn.experts.3.w1.weight", lambda x: torch.full_like(x, -120))
    (finding,) = contents(folder)  # 0x88: two times minus zero
    assert finding.what == "all its numbers are zero"


def test_what_training_starts_at_zero_may_be_zero(damaged: Damaged) -> None:
    assert contents(damaged("layers.1.ffn.gate.bias", zeros)) == []


def test_odd_scales(damaged: Damaged) -> None:
    (finding,) = contents(damaged("layers.2.attn.wq_a.scale", with_code(140)))
    assert finding.severity == "warning" and finding.where == "layers.2.attn.wq_a.scale"


def test_scales_of_blocks_of_zeros_are_not_odd(damaged: Damaged) -> None:
    assert contents(damaged("layers.2.attn.wq_a.scale", with_code(1))) == []


def test_bytes_copied_into_float32_scales(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from dsv4.checkpoint.folder import read_stored

    config = dataclasses.replace(preset("tiny"), expert_dtype="fp8", scale_dtype="f32")
    checkpoint.synth(config, tmp_path / "base")
    path = read_stored(tmp_path / "base")["layers.1.attn.wkv.scale"].file
    tensors = load_file(path)
    tensors["layers.1.attn.wkv.scale"].fill_(118.0)
    save_file(tensors, path)
    (finding,) = check_contents(make_plan(tmp_path / "base"), 5)
    assert finding.resembles == "scales-as-numbers" and finding.severity == "error"


def test_routes_out_of_range(damaged: Damaged) -> None:
    def change(x: Tensor) -> Tensor:
        x[5, 1] = 8
        return x

    (finding,) = contents(damaged("layers.0.ffn.gate.tid2eid", change))
    assert finding.severity == "error" and "allowed are 0 to 7" in finding.what


def test_routes_to_the_same_expert_twice(damaged: Damaged) -> None:
    def change(x: Tensor) -> Tensor:
        x[5, 1] = x[5, 0]
        return x

    (finding,) = contents(damaged("layers.0.ffn.gate.tid2eid", change))
    assert finding.severity == "warning" and finding.what.startswith("1 of ")


def test_layers_that_are_left_out_are_not_read(damaged: Damaged) -> None:
    plan = make_plan(damaged("layers.2.attn.wq_a.weight", zeros))
    assert check_contents(plan, 2) == []
    assert len(check_contents(plan, 3)) == 1


def test_many_faults_are_counted() -> None:
    from dsv4.evaluation.conformance.contents import MOST_NAMED, _findings

    names = [f"layers.{i}.x" for i in range(MOST_NAMED + 5)]
    found = list(_findings("dead", names))
    assert len(found) == MOST_NAMED + 1 and found[-1].where == "5 more tensors"
