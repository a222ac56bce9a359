"""From text files to a model that can be exported, at the smallest size."""

import json
from dataclasses import replace

import pytest
import torch

from dsv4 import checkpoint
from dsv4.data.corpora import Source, read
from dsv4.data.tokenizer import train_tokenizer
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import DataError, UsageError
from dsv4.presets import preset
from dsv4.training import Schedule, TrainConfig, train
from dsv4.training.plot import plot_losses

MODEL = replace(preset("tiny"), vocab_size=300, num_hidden_layers=3, compress_ratios=(0, 4, 128, 0))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    pets = ["dog", "cat", "bird", "fish"]
    texts = [f"The {pets[i % 4]} sat on the mat and looked at number {i}. " * 4 for i in range(64)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "a.jsonl").write_text("".join(lines))
    return folder


def settings(corpora, out, **changes):
    source = Source("pets", "a.jsonl", 1.0, "CC0")
    plan = TrainConfig(
        model=MODEL,
        sources=(source,),
        corpora=corpora,
        out=out,
        schedule=Schedule(steps=6, lr=0.01, warmup=2, decay=0.5),
        batch_tokens=128,
        max_length=64,
        heldout=(source,),
        eval_every=3,
        eval_batches=1,
        quantise_from=0.5,
    )
    return replace(plan, **changes)


def test_trains_resumes_exports_and_draws(corpora, tmp_path):
    records, lines = [], []
    out = tmp_path / "run"
    train(settings(corpora, out, max_minutes=0.0), report=records.append)
    assert len(records) == 1
    trained = train(settings(corpora, out), report=records.append, status=lines.append)
    assert trained.finished and trained.step == 6
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert "resuming after step 1" in lines
    assert records[-1]["validation_loss"] < records[0]["loss"] - 0.5
    checkpoint.export_released(trained.model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    tokenizer = Tokenizer.from_file(out / "tokenizer.json")
    ids = torch.tensor([[0, *tokenizer.encode("The dog sat on the mat")]])
    assert loaded(ids).logits_BTV.shape == (1, ids.shape[1], 300)
    plot_losses(out / "metrics.jsonl", tmp_path / "loss.png", "pets")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_tokenizer_larger_than_the_model_is_refused(corpora, tmp_path):
    texts = list(read(Source("pets", "a.jsonl", 1.0, "CC0"), corpora))
    train_tokenizer(texts, 300, tmp_path / "t.json")
    small = replace(MODEL, vocab_size=299)
    given = settings(corpora, tmp_path / "b", tokenizer=tmp_path / "t.json", model=small)
    with pytest.raises(UsageError, match="300 tokens"):
        train(given)


def test_a_picture_needs_metrics(tmp_path):
    with pytest.raises(DataError):
        plot_losses(tmp_path / "none.jsonl", tmp_path / "loss.png", "none")
