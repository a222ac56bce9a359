"""Both directions between our folders and transformers' own model class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import MICRO, edit_config, edit_header, same_weights
from safetensors.torch import load_file, save_file

from dsv4 import checkpoint
from dsv4.checkpoint import layout, names
from dsv4.errors import CheckpointError
from dsv4.model.weights import get_weight
from dsv4.numerics.quantized import FP8, QuantizedTensor, quantize

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def theirs() -> Any:
    """transformers' model of the `micro` architecture, randomly initialised in float32."""
    values = MICRO.to_transformers()
    config = transformers.DeepseekV4Config(
        **{key: values[key] for key in values if key not in ("architectures", "model_type")}
    )
    torch.manual_seed(11)
    model = transformers.DeepseekV4ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.normal_(1.0 if "norm" in name else 0.0, 0.2)
            else:
                tensor.copy_(torch.randint(MICRO.n_routed_experts, tensor.shape))
    return model


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(ids).logits
    return result


@pytest.mark.parametrize("original", [True, False], ids=["default", "own-names"])
def test_what_they_save_we_load(theirs: Any, tmp_path: Path, original: bool) -> None:
    theirs.save_pretrained(tmp_path, save_original_format=original)
    model, report = checkpoint.load_with_report(tmp_path)
    assert report.layout == "transformers"
    assert any("no MTP block" in note for note in report.notes)
    state = theirs.state_dict()
    for parameter in layout.parameters(model.config):
        ours = get_weight(model, parameter.name)
        assert torch.equal(ours, their_weight(state, parameter.name)), parameter.name
    ids = torch.randint(MICRO.vocab_size, (1, 150))
    torch.testing.assert_close(model(ids).logits_BTV, logits(theirs, ids), rtol=1e-4, atol=1e-4)


def their_weight(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The slice of their state dict that a released name stands for, found another way."""
    if ".experts." not in name:
        return state[names.to_transformers(name)]
    _, layer, _, _, expert, matrix, _ = name.split(".")
    prefix = f"model.layers.{layer}.mlp.experts."
    if matrix == "w2":
        return state[prefix + "down_proj"][int(expert)]
    both = state[prefix + "gate_up_proj"][int(expert)]
    return both.chunk(2)[0 if matrix == "w1" else 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_we_export_they_load(intact: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = checkpoint.load(intact)
    checkpoint.export_transformers(model, tmp_path / "out", dtype=dtype)
    loaded, info = transformers.DeepseekV4ForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    state = loaded.state_dict()
    for parameter in layout.parameters(layout.without_mtp(MICRO)):
        ours = get_weight(model, parameter.name)
        dense = ours.dequantize() if isinstance(ours, QuantizedTensor) else ours
        theirs = their_weight(state, parameter.name)
        assert torch.equal(theirs, dense.to(theirs.dtype)), parameter.name
    ids = torch.randint(MICRO.vocab_size, (1, 150))
    torch.testing.assert_close(logits(loaded, ids), model(ids).logits_BTV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("original", [True, False], ids=["default", "own-names"])
def test_what_they_save_of_our_export_we_load(intact: Path, tmp_path: Path, original: bool) -> None:
    """Ours, through their from_pretrained and save_pretrained, and back: the same weights."""
    checkpoint.export_transformers(checkpoint.load(intact), tmp_path / "ours")
    before = checkpoint.load(tmp_path / "ours")
    theirs = transformers.DeepseekV4ForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32
    )
    theirs.save_pretrained(tmp_path / "theirs", save_original_format=original)
    assert same_weights(checkpoint.load(tmp_path / "theirs"), before)


def test_our_export_loads_here_as_well(intact: Path, tmp_path: Path) -> None:
    model = checkpoint.load(intact)
    checkpoint.export_transformers(model, tmp_path / "out")
    again = checkpoint.load(tmp_path / "out")
    ids = torch.randint(MICRO.vocab_size, (1, 150))
    assert torch.equal(again(ids).logits_BTV, model(ids).logits_BTV)


def test_quantised_folders_in_their_names(tmp_path: Path) -> None:
    """FP8 with `.weight_scale_inv`, experts stacked: as their FP8 integration stores them."""
    config = layout.without_mtp(replace(MICRO, moe_intermediate_size=128, expert_dtype="fp8"))
    checkpoint.synth(config, tmp_path / "plain", seed=1)
    model = checkpoint.load(tmp_path / "plain")
    checkpoint.export_transformers(model, tmp_path / "out")
    file = next((tmp_path / "out").glob("*.safetensors"))
    tensors = load_file(file)
    for parameter in layout.parameters(config):
        if parameter.format is not None and not parameter.expert:
            weight = get_weight(model, parameter.name)
            assert isinstance(weight, QuantizedTensor)
            name = names.to_transformers(parameter.name)
            tensors[name] = weight.data
            tensors[name + "_scale_inv"] = weight.scale
    for name in [name for name in tensors if ".experts." in name]:
        parts = [quantize(matrix, FP8) for matrix in tensors[name]]
        tensors[name] = torch.stack([part.data for part in parts])
        tensors[name + "_scale_inv"] = torch.stack([part.scale for part in parts])
    save_file(tensors, file)
    (tmp_path / "out" / "model.safetensors.index.json").unlink()
    loaded, report = checkpoint.load_with_report(tmp_path / "out")
    assert report.layout == "transformers" and report.config.expert_dtype == "fp8"
    assert isinstance(get_weight(loaded, "layers.2.ffn.experts.2.w3.weight"), QuantizedTensor)
    ids = torch.randint(MICRO.vocab_size, (1, 40))
    assert torch.equal(loaded(ids).logits_BTV, model(ids).logits_BTV)


def test_stacks_that_do_not_fit_are_refused(intact: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    checkpoint.export_transformers(checkpoint.load(intact), out)

    def swap(header: dict[str, Any]) -> None:
        entry = header["model.layers.0.mlp.experts.gate_up_proj"]
        entry["shape"] = [*entry["shape"][1:], entry["shape"][0]]

    edit_header(out, swap)
    with pytest.raises(CheckpointError, match="gate_up_proj"):
        checkpoint.load(out)


@pytest.mark.parametrize("experts", [1 << 16, 1])
def test_claims_about_stacks_cost_nothing(intact: Path, tmp_path: Path, experts: int) -> None:
    """A header may claim any number of empty experts."""
    out = tmp_path / "out"
    checkpoint.export_transformers(checkpoint.load(intact), out)
    file = next(out.glob("*.safetensors"))
    tensors = load_file(file)
    tensors["model.layers.0.mlp.experts.gate_up_proj"] = torch.empty(0, 2, 2)
    save_file(tensors, file)

    def claim(header: dict[str, Any]) -> None:
        header["model.layers.0.mlp.experts.gate_up_proj"]["shape"] = [experts, 0, 2]

    edit_header(out, claim)
    edit_config(out, n_routed_experts=experts, num_experts_per_tok=1)
    with pytest.raises(CheckpointError, match="gate_up_proj"):
        checkpoint.load(out)


def test_every_released_name_has_its_own_alias() -> None:
    config = layout.without_mtp(MICRO)
    specs = [spec.name for spec in layout.tensors(config) if ".ffn.experts." not in spec.name]
    assert len({names.to_transformers(name) for name in specs}) == len(specs)
    every = [alias for name in specs for alias in set(names.aliases(name))]
    assert len(set(every)) == len(every)
