"""The language objective: rows on their own, growing rows, recomputed layers, initial weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.training.small import (
    MEMORY,
    SMALL,
    counting_mix,
    new_model,
    new_trainer,
    numbers,
    small_folder,
)

from dsv4 import checkpoint
from dsv4.data.batches import Batch, Mix, Position
from dsv4.data.shards import Shard
from dsv4.engram import EngramConfig
from dsv4.errors import CheckpointError, UsageError
from dsv4.model.weights import get_weight
from dsv4.numerics.quantized import QuantizedTensor
from dsv4.training.initial import initial_model
from dsv4.training.language import LanguageObjective, Stream
from dsv4.training.loss import compute_losses, count_targets
from dsv4.training.precision import training_form
from dsv4.training.schedule import Schedule


def with_memory():
    model = new_model(MEMORY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".engram." in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


def test_rows_are_samples_on_their_own():
    """Documents of a batch give the loss they give alone, unpadded: what packing with
    sample-level masks is for. The second row shares n-grams, experts and shapes with the first."""
    model, draw = with_memory(), torch.Generator().manual_seed(0)
    lengths = [61, 38, 17]
    rows = [torch.randint(3, 64, (n,), generator=draw) for n in lengths]
    rows[1][:10] = rows[0][-10:]
    padded = torch.full((3, 64), 2)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = ids
    together = Batch(padded, torch.tensor(lengths))
    alone = [Batch(ids[None], torch.tensor([len(ids)])) for ids in rows]

    def loss(batch):
        return compute_losses(
            model, batch, targets=count_targets(alone), mtp_weight=0.3, hash_layers=1
        )

    parts = [loss(batch) for batch in alone]
    whole = loss(together)
    assert float(whole.token) == pytest.approx(sum(float(p.token) for p in parts), rel=1e-5)
    assert float(whole.mtp) == pytest.approx(sum(float(p.mtp) for p in parts), rel=1e-5)
    for layer, load in whole.load.items():
        assert torch.equal(load, sum(p.load[layer] for p in parts))


def test_no_row_sees_another():
    model = with_memory()
    ids = torch.randint(3, 64, (2, 64), generator=torch.Generator().manual_seed(1))
    x_BTD = model.embed(ids, torch.float32).detach().requires_grad_()
    model.embed.forward = lambda ids, dtype: x_BTD
    model.features(ids).x_BTD[0].sum().backward()
    assert x_BTD.grad[0].abs().min(-1).values.min() >= 0 and x_BTD.grad[0].abs().sum() > 0
    assert x_BTD.grad[1].abs().max() == 0


def test_rows_grow_and_the_stream_can_be_entered_anywhere():
    tokens = np.arange(3 * 500).astype(np.uint16) % 60 + 3
    mix = Mix((Shard("long", tokens, np.array([0, 500, 1000, 1500])),), (1.0,))
    plan = Schedule(steps=20, lengths=((0.3, 64), (0.6, 128)), accumulate=2)
    stream = Stream(mix, plan, batch_tokens=256, max_length=256, seed=0)
    assert [stream.length(step) for step in (0, 5, 6, 11, 12, 19)] == [64, 64, 128, 128, 256, 256]
    position, places, widths = Position(), [], []
    for step in range(20):
        places.append(position)
        batches, position = stream.next(position, step)
        widths += [batch.ids_BT.shape[1] for batch in batches]
        assert len(batches) == 2
    assert max(widths[:12]) == 64 and max(widths[12:24]) == 128 and max(widths[24:]) == 256
    other = Stream(mix, plan, batch_tokens=256, max_length=256, seed=0)
    for step in (5, 6, 13, 19):
        again, _ = other.next(places[step], step)
        once, _ = stream.next(places[step], step)
        assert all(torch.equal(a.ids_BT, b.ids_BT) for a, b in zip(again, once, strict=True))


def test_recomputed_layers_give_the_same_gradients(tmp_path):
    gradients = []
    for recompute in (False, True):
        model = with_memory()
        plan = Schedule(steps=1)
        stream = Stream(counting_mix(), plan, batch_tokens=128, max_length=64, seed=1)
        objective = LanguageObjective(model, MEMORY, stream, plan)
        with training_form(model, "float32", recompute=recompute):
            (batch,), _ = objective.next(Position(), 0)
            objective.loss(batch, [batch], 0).total.backward()
        assert not any(getattr(m, "recompute", False) for m in model.modules())
        gradients.append({n: p.grad.to_dense() for n, p in model.named_parameters()
                          if p.grad is not None})  # fmt: skip
    plain, again = gradients
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with (
        pytest.raises(UsageError, match="no device cuda"),
        training_form(new_model(), "float32", device="cuda"),
    ):
        pass


def test_a_run_starts_from_a_model_folder(tmp_path):
    folder = small_folder(tmp_path / "model")
    loaded, config = checkpoint.load(folder), checkpoint.read_config(folder)
    model = initial_model(config, folder, seed=3)
    for name, parameter in model.named_parameters():
        value = get_weight(loaded, name)
        value = value.dequantize() if isinstance(value, QuantizedTensor) else value
        assert parameter.dtype == torch.float32 and torch.equal(parameter, value.float()), name
    assert torch.equal(
        get_weight(model, "layers.0.ffn.gate.tid2eid"),
        get_weight(loaded, "layers.0.ffn.gate.tid2eid"),
    )


def test_a_memory_is_added_to_a_model_that_has_none(tmp_path):
    """It starts as an exact identity."""
    folder = small_folder(tmp_path / "model")
    config = checkpoint.read_config(folder)
    engram = EngramConfig((1,), 3, 2, 8, 97, config.vocab_size)
    lines = []
    model = initial_model(replace(config, engram=engram), folder, 0, lines.append)
    assert "engram" in lines[0] or "ngrams" in lines[0]
    ids = torch.arange(3, 40)[None]
    plain = initial_model(config, folder, 0)
    assert torch.equal(model(ids).logits_BTV, plain(ids).logits_BTV)


def test_a_run_starts_from_a_checkpoint_of_another(tmp_path):
    plan = Schedule(steps=2, lr=5e-3, warmup=1)
    first = new_trainer(tmp_path / "run", plan)
    first.run()
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    model = initial_model(SMALL, saved, seed=9)
    for name, parameter in first.model.named_parameters():
        assert torch.equal(parameter, dict(model.named_parameters())[name]), name
    with pytest.raises(CheckpointError, match=r"is \[64, 64\]"):
        initial_model(replace(SMALL, vocab_size=65), saved, 0)
    with pytest.raises(CheckpointError, match="lacks"):
        initial_model(replace(SMALL, num_hidden_layers=4, compress_ratios=(0, 4, 128, 0, 0)),
                      saved, 0)  # fmt: skip
    with pytest.raises(UsageError, match="no folder"):
        initial_model(SMALL, tmp_path / "nowhere", 0)


def test_details_are_told_layer_by_layer(tmp_path):
    records = []
    new_trainer(tmp_path, Schedule(steps=10, lr=5e-3, warmup=1)).run(records.append)
    (detailed,) = [r for r in numbers(records) if "max_activation" in r]
    assert detailed["step"] == 10
    assert set(detailed["max_activation"]) == {"0", "1", "2", "3"}
    assert all(value > 0 for value in detailed["max_activation"].values())
    assert set(detailed["layer_overload"]) == {"1", "2", "3"}
    assert max(detailed["layer_overload"].values()) == detailed["overload"]
