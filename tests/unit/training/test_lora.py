"""LoRA: adapters beside stored weights, their files, and what merging changes and leaves alone."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.unit.training.toy_policy import toy_folder

from dsv4 import checkpoint
from dsv4.data.corpora import Source
from dsv4.errors import CheckpointError, UsageError
from dsv4.model.weights import get_factor, get_weight, set_weight, weights
from dsv4.numerics.adapted import Adapted
from dsv4.numerics.quantized import FP8, QuantizedTensor
from dsv4.tasks.problem import Ask
from dsv4.training.adapters import adapted, attach_adapter, merge_error, save_adapter
from dsv4.training.lora import TARGETS, LoraConfig, LoraSettings, adaptable, attach, train_lora
from dsv4.training.origin import base_origin, origin
from dsv4.training.schedule import Schedule
from dsv4.training.sft import prepare

EVERYTHING = tuple(TARGETS)
FILE = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("lora") / "base")


def changed(folder, targets=EVERYTHING, size=0.05):
    """The model with adapters that do something."""
    model = checkpoint.load(folder)
    attach(model, LoraSettings(rank=4, alpha=8.0, targets=targets), seed=1)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, value in adapted(model):
            value.lora_B.normal_(0, size, generator=rng)
    return model


def logits(model):
    with torch.no_grad():
        return model(torch.arange(5, 45)[None] % 200).logits_BTV


def test_fresh_adapters_change_nothing_and_alone_are_trained(folder):
    base = checkpoint.load(folder)
    before = logits(base)
    attach(base, LoraSettings(targets=EVERYTHING), seed=0)
    assert torch.equal(logits(base), before)
    trained = [name for name, p in base.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len([*adaptable(base.config)]) and len(trained) > 60
    assert all(name.endswith(("lora_A", "lora_B")) for name in trained)


def test_the_base_stays_quantised_while_it_is_trained(folder):
    """Codes alone are kept between forward and backward: no decoded matrix is saved."""
    model = changed(folder)
    assert all(isinstance(value.base, QuantizedTensor) for _, value in adapted(model))
    decoded = [value.base.dequantize() for _, value in adapted(model)]
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(torch.arange(5, 25)[None]).logits_BTV.logsumexp(-1).sum()
    loss.backward()
    assert saved and not any(
        a.shape == b.shape and torch.equal(a, b) for a in saved for b in decoded
    )
    grads = [value.lora_B.grad for _, value in adapted(model)]
    assert sum(grad is not None and bool(grad.abs().sum() > 0) for grad in grads) > 20


def test_the_gradient_is_that_of_the_merged_matrix(folder):
    """dL/dA and dL/dB follow from dL/dW of the sum."""
    model, names = changed(folder), ("layers.1.attn.wq_b.weight", "layers.1.attn.wo_a.weight",
                                     "layers.2.ffn.shared_experts.w1.weight")  # fmt: skip
    merged = changed(folder)
    for name, value in list(adapted(merged)):
        dense = torch.nn.Parameter(value.merged())
        owner = merged.get_submodule(name.removesuffix(".weight"))
        owner._modules.pop("weight")
        owner.register_parameter("weight", dense)
    for one in (model, merged):
        one(torch.arange(5, 45)[None]).logits_BTV.logsumexp(-1).sum().backward()
    for name in names:
        value, whole = get_factor(model, name), get_weight(merged, name).grad
        wanted_A = value.scale * value.lora_B.T @ whole
        wanted_B = value.scale * whole @ value.lora_A.T
        torch.testing.assert_close(value.lora_A.grad, wanted_A.detach(), rtol=2e-3, atol=2e-4)
        torch.testing.assert_close(value.lora_B.grad, wanted_B.detach(), rtol=2e-3, atol=2e-4)


def test_merged_is_adapted(folder):
    model = changed(folder)
    beside = logits(model)
    assert float((beside - logits(checkpoint.load(folder))).abs().max()) > 0.01
    merged = checkpoint.load(folder)
    for name, value in adapted(model):
        owner = merged.get_submodule(name.removesuffix(".weight"))
        owner.weight = torch.nn.Parameter(value.merged(), requires_grad=False)
    # float32 sums in another order, through three layers
    torch.testing.assert_close(logits(merged), beside, rtol=1e-4, atol=1e-5)


def test_files_are_those_of_peft_and_come_back(folder, tmp_path):
    model = changed(folder)
    save_adapter(model, tmp_path, "base")
    again = checkpoint.load(folder)
    assert attach_adapter(again, tmp_path) == len([*adapted(model)])
    assert torch.equal(logits(again), logits(model))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8.0)
    assert {"self_attn.q_a_proj", "mlp.shared_experts.up_proj"} <= set(config["target_modules"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    start = "base_model.model.model.layers.2."
    assert tensors[f"{start}self_attn.q_b_proj.lora_A.weight"].shape == (4, 64)
    assert tensors[f"{start}self_attn.q_b_proj.lora_B.weight"].shape == (512, 4)
    assert tensors[f"{start}mlp.experts.3.gate_proj.lora_A.weight"].shape == (4, 128)


def with_another_code(folder):
    """The model, but for one stored code of a matrix that adapters stand beside."""
    model, name = checkpoint.load(folder), "layers.1.attn.wkv.weight"
    weight = get_weight(model, name)
    codes = weight.data.clone().view(torch.uint8)
    codes[0, 3] ^= 1
    set_weight(model, name, replace(weight, data=codes.view(weight.data.dtype)))
    return model


def test_adapters_stand_beside_the_weights_they_were_trained_with(folder, tmp_path):
    model = changed(folder)
    save_adapter(model, tmp_path / "adapter", "base")
    base = checkpoint.load(folder)
    assert base_origin(model) == base_origin(base) and origin(model) != origin(base)
    attach_adapter(base, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="trained beside other weights"):
        attach_adapter(with_another_code(folder), tmp_path / "adapter")
    attach_adapter(with_another_code(folder), tmp_path / "adapter", any_base=True)
    # The same weights in another layout are the same ones.
    checkpoint.export_transformers(checkpoint.load(folder), tmp_path / "same")
    attach_adapter(checkpoint.load(tmp_path / "same"), tmp_path / "adapter")


def test_another_scale_or_another_base_is_another_run(folder):
    def begun(alpha, model):
        attach(model, LoraSettings(4, alpha), 0)
        return origin(model)

    first = begun(8.0, checkpoint.load(folder))
    assert first == begun(8.0, checkpoint.load(folder))
    assert first != begun(9.0, checkpoint.load(folder))
    assert first != begun(8.0, with_another_code(folder))


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_scales_are_finite_and_above_0(alpha):
    with pytest.raises(UsageError, match=r"rank 4, alpha"):
        LoraSettings(4, alpha)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "no LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"r": None}, "r is None"),
        ({"r": 0}, "r is 0"),
        ({"r": 4.9}, "r is 4.9"),
        ({"r": 16}, "has rank 4, adapter_config.json says r 16"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"init_lora_weights": "olora"}, "changes the base"),
    ],
)
def test_other_kinds_of_adapters_are_refused(folder, tmp_path, change, message):
    save_adapter(changed(folder), tmp_path, "base")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        attach_adapter(checkpoint.load(folder), tmp_path)


def test_adapters_of_other_models_and_damaged_ones_are_refused(folder, tmp_path):
    save_adapter(changed(folder, ("attention",)), tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file(tensors | {name: torch.zeros(4, 3)}, path)
    with pytest.raises(CheckpointError, match="the adapter of layers"):
        attach_adapter(checkpoint.load(folder), tmp_path)
    save_file({name.replace("layers.", "layers.9"): tensors[name]}, path)
    with pytest.raises(CheckpointError, match="no adapter of this model"):
        attach_adapter(checkpoint.load(folder), tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="holds no adapter"):
        attach_adapter(checkpoint.load(folder), tmp_path)


def stored(folder):
    """Bytes of every tensor of a model folder."""
    with safe_open(folder / FILE, "pt") as file:
        return {
            name: file.get_tensor(name).contiguous().view(-1).view(torch.uint8)
            for name in file.keys()  # noqa: SIM118
        }


def test_export_leaves_untouched_tensors_as_they_were_to_the_byte(folder, tmp_path):
    model = changed(folder, ("attention", "experts"))
    checkpoint.export_released(model, tmp_path)
    before, after = stored(folder), stored(tmp_path)
    assert before.keys() == after.keys()
    touched = {name.removesuffix(".weight") for name, _ in adapted(model)}
    for name, data in before.items():
        mine = name.removesuffix(".weight").removesuffix(".scale") in touched
        assert mine or torch.equal(data, after[name]), name
    differ = [n for n in before if not torch.equal(before[n], after[n])]
    assert len(differ) > len(touched) / 2
    error = merge_error(model, checkpoint.load(tmp_path))
    assert error.matrices == len(touched)
    assert 0 < error.error < error.change


def test_a_second_merge_leaves_the_first_as_it_was(folder, tmp_path):
    """Also where the first is stored otherwise than the layout says."""
    kinds = {"attention": torch.bfloat16, "shared": FP8, "experts": torch.float32}
    before = folder
    for target, storage in kinds.items():
        model = changed(before, (target,))
        names = [name for name, _ in adapted(model)]
        otherwise = checkpoint.make_plan(before).otherwise | dict.fromkeys(names, storage)
        checkpoint.export_released(model, tmp_path / target, otherwise=otherwise)
        kept, now = stored(before), stored(tmp_path / target)
        mine = {name.removesuffix(".weight") for name in names}
        for name, data in kept.items():
            if name.removesuffix(".weight").removesuffix(".scale") not in mine:
                assert torch.equal(data, now[name]), name
        before = tmp_path / target
    assert {*checkpoint.make_plan(before).otherwise.values()} >= {torch.bfloat16, torch.float32}
    assert checkpoint.make_plan(folder).otherwise == {}


def test_an_adapter_that_does_nothing_exports_the_same_numbers(folder, tmp_path):
    model = checkpoint.load(folder)
    attach(model, LoraSettings(targets=EVERYTHING), seed=0)
    checkpoint.export_released(model, tmp_path)
    written = dict(weights(checkpoint.load(tmp_path)))
    for name, value in weights(checkpoint.load(folder)):
        if isinstance(value, QuantizedTensor):
            assert torch.equal(value.dequantize(), written[name].dequantize())
            assert torch.equal(value.scales(), written[name].scales())
        else:
            assert torch.equal(value, written[name])


@pytest.mark.parametrize(
    ("storage", "bound"), [(torch.float32, 1e-7), (torch.bfloat16, 0.004), (FP8, 0.04)]
)
def test_touched_matrices_can_be_kept_more_precisely(folder, tmp_path, storage, bound):
    """bfloat16 has 8 bits (half a step is 2^-9 of a value), e4m3 has 4."""
    model = changed(folder, ("shared", "experts"))
    names = [name for name, _ in adapted(model)]
    checkpoint.export_released(model, tmp_path, otherwise=dict.fromkeys(names, storage))
    written = checkpoint.load(tmp_path)
    assert merge_error(model, written).error < bound
    untouched = [n for n, v in weights(written) if n not in names and "attn.wq_a" in n]
    assert all(isinstance(get_weight(written, name), QuantizedTensor) for name in untouched)
    if storage == torch.float32:
        torch.testing.assert_close(logits(written), logits(model), rtol=1e-4, atol=1e-5)


def test_transformers_layout_is_exported_merged(folder, tmp_path):
    model = changed(folder, ("attention",))
    checkpoint.export_transformers(model, tmp_path)
    written = checkpoint.load(tmp_path)
    name = "layers.2.attn.wkv.weight"
    assert torch.equal(get_weight(written, name), get_weight(model, name))


def config(folder, out, steps=4):
    source = Source("sums", "tasks:arithmetic", 1.0, "ours", count=60, ask=Ask(effort="off"))
    return LoraConfig(
        init=folder, out=out, sources=(source,), corpora=out, epochs=None, batch_tokens=512,
        max_length=128, schedule=Schedule(steps, lr=2e-2, warmup=1, decay=0.0, mtp=(0.0, 0.0)),
        lora=LoraSettings(rank=4, alpha=8.0),
    )  # fmt: skip


def run(settings, report=lambda record: None):
    return train_lora(settings, prepare(settings), report=report)


def losses(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_training_lowers_the_loss_and_goes_on_after_a_cut(folder, tmp_path):
    whole = run(config(folder, tmp_path / "whole"))
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0] - 0.3

    def stop_there(record):
        if record["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not run(config(folder, tmp_path / "cut"), stop_there).finished
    cut = run(config(folder, tmp_path / "cut"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for name, value in adapted(whole.model):
        assert torch.equal(value.lora_B, get_factor(cut.model, name).lora_B)
    files = (tmp_path / "whole" / "checkpoints").rglob("weights-*.safetensors")
    kept = {name for file in files for name in load_file(file)}
    assert not any("base" in name or "embed" in name for name in kept)


def test_settings_out_of_range_are_refused():
    for values in ({"rank": 0}, {"alpha": 0.0}, {"targets": ("heads",)}, {"targets": ()}):
        with pytest.raises(UsageError):
            LoraSettings(**values)


def test_an_adapted_weight_says_what_it_is():
    made = Adapted(torch.zeros(6, 4), 2, 1.0, torch.Generator())
    assert (made.shape, made.rank, made.nbytes) == ((6, 4), 2, 4 * (24 + 8 + 12))
