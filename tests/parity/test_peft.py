"""Adapters in PEFT's format, with PEFT itself as the judge (skipped where it is not installed)."""

import pytest
import torch

from dsv4 import checkpoint
from dsv4.training.adapters import adapted, attach_adapter, save_adapter
from dsv4.training.lora import LoraSettings, attach
from tests.unit.training.toy_policy import toy_folder

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


@pytest.mark.filterwarnings("ignore")
def test_peft_computes_what_is_computed_here_and_its_files_come_back(tmp_path):
    folder = toy_folder(tmp_path / "base")
    model = checkpoint.load(folder)
    attach(model, LoraSettings(rank=4, alpha=8.0), seed=1)
    with torch.no_grad():
        for _, value in adapted(model):
            value.lora_B.normal_(0, 0.05)
    save_adapter(model, tmp_path / "adapter", "base")
    checkpoint.export_transformers(checkpoint.load(folder), tmp_path / "theirs")
    theirs = transformers.DeepseekV4ForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32, attn_implementation="eager"
    )
    both = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        ours = model(ids).logits_BTV
        torch.testing.assert_close(both(ids).logits, ours, rtol=1e-4, atol=1e-5)
    both.save_pretrained(tmp_path / "saved")
    again = checkpoint.load(folder)
    assert attach_adapter(again, tmp_path / "saved") == len([*adapted(model)])
    with torch.no_grad():
        assert torch.equal(again(ids).logits_BTV, ours)
