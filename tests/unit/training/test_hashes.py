"""Runs that begin or go on with an Engram: which rows an n-gram finds must stay what it was."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.training.small import MEMORY, SMALL, new_model, new_trainer, small_folder

from dsv4 import checkpoint
from dsv4.data.corpora import Source
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engram import EngramConfig
from dsv4.errors import CheckpointError
from dsv4.model.retrofit import add_engram
from dsv4.training import Schedule, TrainConfig, train
from dsv4.training.initial import inherited, initial_model
from dsv4.training.lora import LoraConfig, train_lora
from dsv4.training.sft import prepare
from dsv4.training.teacher import Teacher, TeacherConfig

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder whose Engram was trained with a map of its own: 100 canonical ids."""
    plain = small_folder(tmp_path_factory.mktemp("hashes") / "plain")
    model = checkpoint.load(plain)
    tokens = model.config.vocab_size
    made = add_engram(model, EngramConfig((1,), 3, 2, 8, 97, 100), [i % 100 for i in range(tokens)])
    with torch.no_grad():
        made.engrams()[1].embed.weight.normal_(0, 3, generator=torch.Generator().manual_seed(0))
    checkpoint.export_released(made, plain.parent / "model")
    (plain.parent / "model" / "tokenizer.json").write_bytes((plain / "tokenizer.json").read_bytes())
    return plain.parent / "model"


def pretraining(folder, tmp_path, **changes):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "One two three. " * 20}) + "\n")
    plan = TrainConfig(
        model=checkpoint.read_config(folder),
        init=folder,
        tokenizer=folder / "tokenizer.json",
        sources=(Source("a", "a.jsonl", 1.0, "CC0"),),
        corpora=tmp_path,
        out=tmp_path / "run",
        schedule=Schedule(steps=1, lr=0.0, warmup=1),
        batch_tokens=64,
        max_length=64,
        bias_speed=0.0,
        quantise_from=1.0,
    )
    return replace(plan, **changes)


def test_training_on_keeps_the_hashes(folder, tmp_path):
    """The tokenizer gives other canonical ids, and another number of them, than the folder has."""
    config = checkpoint.read_config(folder)
    canonical = Tokenizer.from_folder(folder).canonical_ids(config.vocab_size)
    assert max(canonical) + 1 != config.engram.compressed_vocab_size
    trained = train(pretraining(folder, tmp_path)).model
    assert trained.config.engram == config.engram
    assert torch.equal(trained(IDS).logits_BTV, initial_model(config, folder, 0)(IDS).logits_BTV)
    assert trained.ngrams.token_map.tolist() == checkpoint.load(folder).ngrams.token_map.tolist()


def test_an_architecture_that_hashes_otherwise_is_refused(folder, tmp_path):
    config = checkpoint.read_config(folder)
    for change in ({"seed": 7}, {"pad_id": 9}):
        other = replace(config, engram=replace(config.engram, **change))
        with pytest.raises(CheckpointError, match="hashes otherwise"):
            train(pretraining(folder, tmp_path, model=other))
    drawn = replace(config, engram=replace(config.engram, multipliers=((3, 5, 7),)))
    with pytest.raises(CheckpointError, match="hashes otherwise"):
        initial_model(drawn, folder, 0)
    assert inherited(drawn, folder) == config
    assert inherited(SMALL, folder) is None and inherited(config, None) is None


def test_a_new_memory_gets_the_map_of_the_tokenizer(folder, tmp_path):
    plain = folder.parent / "plain"
    model = replace(checkpoint.read_config(plain), engram=EngramConfig((1,), 3, 2, 8, 97, 99))
    trained = train(pretraining(plain, tmp_path, model=model)).model
    canonical = Tokenizer.from_folder(plain).canonical_ids(model.vocab_size)
    assert trained.ngrams.token_map.tolist() == canonical
    assert trained.config.engram.compressed_vocab_size == max(canonical) + 1


@pytest.mark.parametrize("change", [{"seed": 7}, {"pad_id": 9}, {"multipliers": ((3, 5, 7),)}])
def test_a_run_does_not_go_on_with_other_hashes(change, tmp_path):
    schedule = Schedule(steps=2, lr=5e-3, warmup=1)
    model = new_model(MEMORY)
    new_trainer(tmp_path, schedule, model=model, max_minutes=0.0).run()
    engram = replace(MEMORY.engram, **{"multipliers": (), **change})
    other = new_model(replace(MEMORY, engram=engram))
    with pytest.raises(CheckpointError, match="hashes otherwise"):
        new_trainer(tmp_path, schedule, model=other).resume()
    (saved,) = (tmp_path / "checkpoints").iterdir()
    with pytest.raises(CheckpointError, match="hashes otherwise"):
        initial_model(other.config, saved, 0)
    again = new_trainer(tmp_path, schedule, model=new_model(MEMORY))
    assert again.resume() and again.step == 1
    # Earlier versions did not write it down.
    state = json.loads((saved / "state.json").read_text())
    del state["engram"]
    (saved / "state.json").write_text(json.dumps(state))
    assert new_trainer(tmp_path, schedule, model=new_model(MEMORY)).resume()


def test_a_folder_without_a_token_map_takes_that_of_its_tokenizer(folder, tmp_path):
    """As chatting does, so do training, adapters and teachers."""
    plain = folder.parent / "plain"
    model = checkpoint.load(plain)
    canonical = Tokenizer.from_folder(plain).canonical_ids(model.config.vocab_size)
    made = add_engram(model, EngramConfig((1,), 3, 2, 8, 97, 99), canonical)
    bare = tmp_path / "bare"
    checkpoint.export_released(made, bare)
    (bare / "tokenizer.json").write_bytes((plain / "tokenizer.json").read_bytes())
    (path,) = bare.glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    del tensors["ngrams.token_map"]
    save_file(tensors, path)
    (bare / "model.safetensors.index.json").unlink()

    config = checkpoint.read_config(bare)
    assert initial_model(config, bare, 0).ngrams.token_map.tolist() == canonical
    Teacher(TeacherConfig("bare", bare), bare)
    conversation = {"messages": [{"role": "user", "content": "a"},
                                 {"role": "assistant", "content": "b"}]}  # fmt: skip
    (tmp_path / "c.jsonl").write_text(json.dumps(conversation) + "\n")
    settings = LoraConfig(
        init=bare, sources=(Source("c", "c.jsonl", 1.0, "CC0"),), corpora=tmp_path,
        out=tmp_path / "lora", schedule=Schedule(steps=1, lr=1e-3, warmup=1), max_length=64,
        batch_tokens=64, epochs=None,
    )  # fmt: skip
    assert train_lora(settings, prepare(settings)).finished
