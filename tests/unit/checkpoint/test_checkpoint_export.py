"""Writing folders: what is written loads back to the same bits, or nothing is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_folders import MICRO, WEIGHTS, edit_config, same_weights
from safetensors import safe_open

from dsv4 import checkpoint
from dsv4.checkpoint import export, layout, writer
from dsv4.checkpoint.folder import INDEX_NAME
from dsv4.engram import EngramConfig
from dsv4.errors import CheckpointError, ConfigError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import get_weight, init_weights, set_weight, weights
from dsv4.numerics.quantized import FP8_ROWS, QuantizedTensor, quantize


@pytest.fixture
def trained() -> Transformer:
    """A model of float32 weights, as training has it."""
    model = Transformer(MICRO)
    init_weights(model, seed=5)
    return model


def test_quantised_weights_are_written_as_they_are(intact: Path, tmp_path: Path) -> None:
    model = checkpoint.load(intact)
    checkpoint.export_released(model, tmp_path / "again")
    assert same_weights(checkpoint.load(tmp_path / "again"), model)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (intact / WEIGHTS).read_bytes()
    for name in ("config.json", INDEX_NAME):
        assert (tmp_path / "again" / name).read_text() == (intact / name).read_text()


def test_float_weights_are_rounded_into_the_layout(trained: Transformer, tmp_path: Path) -> None:
    checkpoint.export_released(trained, tmp_path / "out")
    with safe_open(tmp_path / "out" / WEIGHTS, "pt") as file:
        found = {
            name: (tuple(file.get_slice(name).get_shape()), file.get_tensor(name).dtype)
            for name in list(file.keys())
        }
    assert found == {spec.name: (spec.shape, spec.dtype) for spec in layout.tensors(MICRO)}
    loaded, report = checkpoint.load_with_report(tmp_path / "out")
    assert report.notes == () and report.config == MICRO
    for parameter in layout.parameters(MICRO):
        before, after = (get_weight(m, parameter.name) for m in (trained, loaded))
        assert isinstance(before, torch.Tensor)
        if parameter.format is not None:
            assert isinstance(after, QuantizedTensor)
            want = quantize(before, parameter.format)
            assert torch.equal(after.dequantize(), want.dequantize()), parameter.name
        else:
            assert isinstance(after, torch.Tensor)
            assert torch.equal(after, before.to(parameter.dtype)), parameter.name


@pytest.mark.parametrize("conv", [False, True])
def test_engram_is_written_and_read_again(conv: bool, tmp_path: Path) -> None:
    engram = EngramConfig((0, 2), 3, 2, 24, 61, 30, conv=conv)
    model = Transformer(replace(MICRO, engram=engram)).requires_grad_(False)
    init_weights(model, seed=5)
    set_weight(model, "ngrams.token_map", torch.arange(40) % 30)
    for memory in model.engrams().values():
        torch.nn.init.normal_(memory.embed.weight, std=0.02)
    checkpoint.export_released(model, tmp_path / "a")
    loaded, report = checkpoint.load_with_report(tmp_path / "a", check_all_values=True)
    assert report.config == model.config
    table = get_weight(loaded, "layers.2.engram.embed.weight")
    assert isinstance(table, QuantizedTensor) and table.format is FP8_ROWS
    before = get_weight(model, "layers.2.engram.embed.weight")
    assert float((table.dequantize() - before).norm() / before.norm()) < 0.04
    assert torch.equal(get_weight(loaded, "ngrams.token_map"), torch.arange(40) % 30)
    checkpoint.export_released(loaded, tmp_path / "b")
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    with pytest.raises(ConfigError, match="no Engram"):
        checkpoint.export_transformers(model, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_token_map_with_ids_that_are_none_is_refused(tmp_path: Path) -> None:
    model = Transformer(replace(MICRO, engram=EngramConfig((0,), 3, 2, 24, 61, 30)))
    init_weights(model, seed=5)
    set_weight(model, "ngrams.token_map", torch.arange(40))
    checkpoint.export_released(model, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"token_map: an id outside 0\.\.29"):
        checkpoint.load(tmp_path / "a")


def test_exporting_twice_changes_nothing(trained: Transformer, tmp_path: Path) -> None:
    checkpoint.export_released(trained, tmp_path / "a")
    checkpoint.export_released(checkpoint.load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


def test_large_models_are_cut_into_files_as_released(
    intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "ONE_FILE_BYTES", 0)
    model = checkpoint.load(intact)
    checkpoint.export_released(model, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert names == [f"model-{i:05d}-of-00006.safetensors" for i in range(1, 7)]
    index = json.loads((tmp_path / "out" / INDEX_NAME).read_text())
    where = index["weight_map"]
    assert where["embed.weight"] == names[0]
    assert where["layers.2.attn.wkv.scale"] == names[3]
    assert where["norm.weight"] == where["hc_head_fn"] == where["head.weight"] == names[4]
    assert where["mtp.0.e_proj.weight"] == names[5]
    total = sum(spec.nbytes for spec in layout.tensors(MICRO))
    assert index["metadata"]["total_size"] == total
    assert same_weights(checkpoint.load(tmp_path / "out"), model)


def test_progress_counts_to_the_end(intact: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = checkpoint.load(intact)
    checkpoint.export_released(model, tmp_path / "x", progress=lambda *n: seen.append(n))
    total = sum(spec.nbytes for spec in layout.tensors(MICRO))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_model_is_not_overwritten_by_accident(folder: Path, trained: Transformer) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match="already holds a model"):
        checkpoint.export_released(trained, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_overwriting_keeps_other_files(folder: Path, trained: Transformer) -> None:
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"stale")
    checkpoint.export_released(trained, folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["config.json", "tokenizer.json", INDEX_NAME, WEIGHTS]
    )
    weight = get_weight(checkpoint.load(folder), "layers.0.attn.wq_a.weight")
    own = get_weight(trained, "layers.0.attn.wq_a.weight")
    assert isinstance(weight, QuantizedTensor) and isinstance(own, torch.Tensor)
    assert torch.equal(weight.dequantize(), quantize(own, weight.format).dequantize())


def test_nothing_is_left_of_a_failed_export(folder: Path, trained: Transformer) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    bad = torch.full((MICRO.vocab_size, MICRO.hidden_size), float("nan"))
    set_weight(trained, "head.weight", bad)
    for overwritten in (folder, folder.parent / "new"):
        with pytest.raises(CheckpointError, match=r"head\.weight holds NaN"):
            checkpoint.export_released(trained, overwritten, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not list((folder.parent / "new").iterdir())


def test_what_a_killed_export_left_is_removed(
    trained: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next export; what a running one holds, or somebody else put there, stays."""
    out = tmp_path / "out"

    def killed(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.export_released(trained, out, progress=killed)
    (stale,) = out.iterdir()
    assert stale.name.startswith(".partial-") and list(stale.iterdir())
    foreign = out / ".partial-abcd1234"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("not written by an export")
    with writer.staged(out, overwrite=False, needed=0) as running:
        assert not stale.exists() and (foreign / "notes.txt").exists()
        checkpoint.export_released(trained, out)
        assert running.exists() and (foreign / "notes.txt").exists()


def test_an_interrupted_move_leaves_no_loadable_mixture(
    folder: Path, trained: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails after any number of moved files: the folder loads whole or not at all."""
    real, moved = Path.replace, 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal moved
        moved += 1
        if moved == 2:
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.export_released(trained, folder, overwrite=True)
    assert not (folder / "config.json").exists()


def test_a_full_disk_is_said_before_writing(
    trained: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match="GiB are needed"):
        checkpoint.export_released(trained, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_unwritable_places_are_said(trained: Transformer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        checkpoint.export_released(trained, tmp_path / "file" / "model")


def test_models_without_an_mtp_block(trained: Transformer, tmp_path: Path) -> None:
    bare = Transformer(layout.without_mtp(MICRO))
    init_weights(bare, seed=1)
    checkpoint.export_released(bare, tmp_path / "bare")
    loaded, report = checkpoint.load_with_report(tmp_path / "bare")
    assert report.notes == () and len(loaded.mtp) == 0


def test_draft_stage_configurations_export_what_was_loaded(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, dspark_block_size=5, compress_ratios=[0, 4, 128, 0, 0, 0])
    model = checkpoint.load(folder)
    checkpoint.export_released(model, tmp_path / "out")
    loaded, report = checkpoint.load_with_report(tmp_path / "out")
    assert report.notes == () and report.config.num_nextn_predict_layers == 0
    assert report.config == model.config and report.config.draft_stages == 3  # prompts differ
    assert dict(weights(loaded)).keys() == dict(weights(model)).keys()
