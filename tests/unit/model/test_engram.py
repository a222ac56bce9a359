"""Engram: hash and gate against a second implementation, gradients, retrofit, V4.1's tensors.

The second implementation is written here from the paper, in Python integers and float64.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.models import FLASH_LIKE, draw_config, draw_model, tokens, with_engram
from torch import Tensor

from dsv4 import checkpoint, ops
from dsv4.engram import EngramConfig
from dsv4.errors import CheckpointError, ConfigError, StateError, UsageError
from dsv4.model.retrofit import add_engram, fit_engram, set_token_map
from dsv4.model.transformer import Transformer
from dsv4.model.weights import get_weight, init_weights, set_weight
from dsv4.numerics.formats import decode_e4m3, decode_e8m0
from dsv4.numerics.policy import EXACT, FAST, by_name
from dsv4.numerics.quantized import FP8_32, QuantizedTensor
from dsv4.ops.fused import available
from dsv4.presets import preset

VOCABULARY = 512


def hashed_rows(engram: EngramConfig, number: int, canonical: list[int]) -> list[list[int]]:
    """Rows of table `number` for each of the last tokens, N - 1 canonical ids going before."""
    N, K = engram.max_ngram_size, engram.n_heads
    primes, a = engram.primes[number], engram.multipliers[number]
    found = []
    for t in range(N - 1, len(canonical)):
        row, before = [], 0
        for n in range(2, N + 1):
            mixed = 0
            for j in range(n):
                mixed ^= canonical[t - j] * a[j]
            for k in range(K):
                prime = primes[(n - 2) * K + k]
                row.append(before + mixed % prime)
                before += prime
        found.append(row)
    return found


def gated(x: Tensor, keys: Tensor, value: Tensor, q: Tensor, k: Tensor, eps: float) -> Tensor:
    """What is added to the streams x [S, D] of one token, float64."""
    out = torch.empty_like(x)
    for s in range(x.shape[0]):
        query = x[s] / math.sqrt(float((x[s] ** 2).mean()) + eps) * q[s]
        key = keys[s] / math.sqrt(float((keys[s] ** 2).mean()) + eps) * k[s]
        score = float(query @ key) / math.sqrt(x.shape[1])
        root = math.copysign(math.sqrt(max(abs(score), 1e-6)), score) if score else 0.0
        out[s] = value / (1 + math.exp(-root))
    return out


@pytest.mark.parametrize("N", [2, 3, 4])
def test_hashes_whole_in_chunks_and_one_by_one(N: int) -> None:
    engram = EngramConfig((0, 2, 3), N, 3, 8, 1000, 300, pad_id=5)
    config = replace(preset("tiny"), engram=engram)
    model = Transformer(config)
    init_weights(model, 1)
    canonical = torch.randint(300, (VOCABULARY,), generator=torch.Generator().manual_seed(N))
    set_weight(model, "ngrams.token_map", canonical)
    ids = tokens(config, 37, N)
    before = [int(canonical[5])] * (N - 1)
    want = [
        torch.tensor([hashed_rows(engram, number, before + canonical[ids[0]].tolist())])
        for number in range(3)
    ]
    assert model.ngrams is not None
    assert all(map(torch.equal, model.ngrams(ids, None, 0), want))
    for size in (1, 2, 5, 36):
        state, parts = model.new_state(), []
        assert state.ids is not None
        for start in range(0, 37, size):
            piece = ids[:, start : start + size]
            parts.append(model.ngrams(piece, state.ids, start))
            state.ids.write(start, piece[..., None].float())
        assert all(
            map(torch.equal, (torch.cat(part, 1) for part in zip(*parts, strict=True)), want)
        )
    below = torch.tensor(engram.rows)
    assert bool((torch.stack([part.amax() for part in want]) < below).all())


@pytest.mark.parametrize("S", [1, 4])
def test_gate_against_float64(S: int) -> None:
    """Also for scores of exactly zero and tiny ones of both signs, where the root has its bend."""
    rng = torch.Generator().manual_seed(S)
    T, D, eps = 9, 40, 1e-6
    x, keys = (torch.randn(1, T, S, D, generator=rng) for _ in range(2))
    q, k = (1 + 0.3 * torch.randn(S, D, generator=rng) for _ in range(2))
    value = torch.randn(1, T, D, generator=rng)
    x[0, 0] = 0
    keys[0, 1] = 0
    unit = torch.zeros(D)
    unit[0] = 1
    for t, size in ((2, 1e-9), (3, -1e-9), (4, 1e-4), (5, -1e-4)):
        x[0, t], keys[0, t] = unit, unit.roll(1) + size * unit
    keys[0, 6] = 100 * x[0, 6]
    keys[0, 7] = -100 * x[0, 7]
    found = ops.engram_gate(x, keys, value, q, k, eps, EXACT)
    for t in range(T):
        want = gated(*(part.double() for part in (x[0, t], keys[0, t], value[0, t], q, k)), eps)
        assert torch.allclose(found[0, t].double(), want, rtol=3e-6, atol=1e-7), t
    assert torch.equal(found[0, 0], (value[0, 0] / 2).expand(S, D))
    assert torch.equal(found[0, 1], (value[0, 1] / 2).expand(S, D))
    share = (found / value.unsqueeze(2)).mean(-1)[0]
    assert bool((share[6] > 0.9).all() and (share[7] < 0.1).all() and (share[2] > share[3]).all())


@pytest.mark.skipif(not available(), reason="no native kernels")
@pytest.mark.parametrize("T", [1, 3, 70])
def test_the_kernel_is_the_reference(T: int) -> None:
    """The layer alone, on streams that make scores zero, tiny and large."""
    model = draw_model(with_engram(draw_config(5, FLASH_LIKE), 5), 5).requires_grad_(False)
    (memory, *_), ids = model.engrams().values(), tokens(model.config, T, T)
    D, S = model.config.hidden_size, model.config.hc_mult
    x = torch.randn(1, T, S, D, generator=torch.Generator().manual_seed(T))
    x[0, 0] *= 1e-20
    x[0, -1] *= 1e4
    assert model.ngrams is not None
    rows = model.ngrams(ids, None, 0)[memory.number]
    found = memory(x, memory.submit(rows, FAST), 0, None, FAST)
    with ops.unfused():
        want = memory(x, memory.submit(rows, FAST), 0, None, FAST)
    assert not torch.equal(found, x)
    assert float(((found - x) - (want - x)).norm() / (want - x).norm()) < 3e-6
    alone = torch.cat(
        [
            memory(x[:, t : t + 1], memory.submit(rows[:, t : t + 1], FAST), t, None, FAST)
            for t in range(T)
        ],
        1,
    )
    assert torch.equal(alone, found)


@pytest.mark.parametrize("conv", [False, True])
def test_gradient_reaches_only_the_rows_that_were_read(conv: bool) -> None:
    model = draw_model(with_engram(draw_config(3, FLASH_LIKE), 3, conv=conv), 3)
    ids = tokens(model.config, 12, 3)
    model(ids).logits_BTV.square().sum().backward()
    assert model.ngrams is not None
    rows = model.ngrams(ids, None, 0)
    for memory in model.engrams().values():
        table = memory.embed.weight
        assert isinstance(table, Tensor) and table.grad is not None
        touched = torch.zeros(table.shape[0], dtype=torch.bool)
        touched[rows[memory.number].flatten()] = True
        assert torch.equal(table.grad.abs().sum(1) > 0, touched)
        for parameter in (memory.wkv.weight, memory.q_weight, memory.k_weight):
            assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0


# --- retrofit ------------------------------------------------------------------------------------

CANONICAL = [i // 2 for i in range(VOCABULARY)]


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("policy", ["exact", "fast", "official"])
def test_a_retrofitted_model_is_the_same_to_the_bit(policy: str, conv: bool) -> None:
    if policy == "fast" and not available():
        pytest.skip("no native kernels")
    model = Transformer(preset("tiny"), by_name(policy))
    init_weights(model, 4)
    engram = EngramConfig((0, 1, 3), 3, 2, 32, 97, 300, conv=conv)
    made = add_engram(model, engram, CANONICAL, seed=2)
    ids = tokens(model.config, 60, 4)
    with torch.no_grad():
        if policy == "fast" and conv:  # layer by layer, in which torch may add up otherwise
            with ops.unfused():
                assert torch.equal(made(ids).logits_BTV, model(ids).logits_BTV)
        else:
            assert torch.equal(made(ids).logits_BTV, model(ids).logits_BTV)
    assert made.config.engram is not None and made.config.engram.compressed_vocab_size == 256
    assert get_weight(made, "embed.weight").data_ptr() == model.embed.weight.data_ptr()  # type: ignore[union-attr]
    made.zero_grad()
    made.numerics = EXACT
    made(ids).logits_BTV.square().sum().backward()
    table = made.engrams()[1].embed.weight
    assert isinstance(table, Tensor) and table.grad is not None
    assert float(table.grad.abs().sum()) > 0


def test_what_cannot_be_retrofitted() -> None:
    model = Transformer(preset("tiny"))
    engram = EngramConfig((1,), 3, 2, 32, 97, 256)
    made = add_engram(model, engram, CANONICAL)
    with pytest.raises(UsageError, match="already"):
        add_engram(made, engram, CANONICAL)
    with pytest.raises(ConfigError, match="engram_layer_ids"):
        add_engram(model, replace(engram, layer_ids=(5,), multipliers=()), CANONICAL)
    with pytest.raises(UsageError, match="no Engram"):
        set_token_map(model, CANONICAL)


@pytest.mark.parametrize(
    "ids", [CANONICAL[:-1], [*CANONICAL[:-1], 256], [*CANONICAL[:-2], 300, 300], [0] * VOCABULARY]
)
def test_a_token_map_of_another_vocabulary_is_refused(ids: list[int]) -> None:
    engram = EngramConfig((1,), 3, 2, 32, 97, 256)
    model = Transformer(replace(preset("tiny"), engram=engram))
    with pytest.raises(ConfigError, match="canonical ids"):
        set_token_map(model, ids)
    set_token_map(model, CANONICAL)
    fitted = fit_engram(model.config, CANONICAL)
    assert fitted == model.config
    assert fit_engram(model.config, [0] * VOCABULARY).engram == EngramConfig((1,), 3, 2, 32, 97, 1)


def test_ids_in_a_stored_state_are_checked() -> None:
    config = replace(preset("tiny"), engram=EngramConfig((1,), 3, 2, 32, 97, 256))
    model = Transformer(config)
    init_weights(model, 0)
    state = model.new_state()
    with torch.no_grad():
        model(tokens(config, 5, 0), state)
    kept = state.to_tensors()
    for bad in (-1.0, float(VOCABULARY), float("nan")):
        kept["ids"][0, 3] = bad
        with pytest.raises(StateError, match="token ids"):
            model.new_state().load_tensors(kept)


# --- V4.1's tensors ------------------------------------------------------------------------------

V41 = replace(preset("tiny"), engram=EngramConfig((1, 4), 4, 2, 64, 300, 256))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose Engram is stored as in V4.1-Flash: 32 x 32 scales of the projection, no token
    map, `engram_pad_token_id`, no multipliers."""
    folder: Path = tmp_path_factory.mktemp("v41") / "model"
    checkpoint.synth(V41, folder, 3)
    (path,) = folder.glob("*.safetensors")
    tensors, rng = load_file(path), torch.Generator().manual_seed(1)
    del tensors["ngrams.token_map"]
    for name in [name for name in tensors if name.endswith("wkv.scale") and "engram" in name]:
        height, width = tensors[name.replace("scale", "weight")].shape
        codes = torch.randint(112, 120, (-(-height // 32), -(-width // 32)), generator=rng)
        tensors[name] = codes.to(torch.uint8).view(torch.float8_e8m0fnu)
    save_file(tensors, path)
    (folder / "model.safetensors.index.json").unlink()
    values = json.loads((folder / "config.json").read_text())
    values["engram_pad_token_id"] = values.pop("engram_pad_id")
    del values["engram_multipliers"], values["engram_seed"], values["engram_conv"]
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def canonical_ids(size: int) -> list[int]:
    assert size == VOCABULARY
    return CANONICAL


def blockwise(data: Tensor, scale: Tensor, rows: int, cols: int) -> Tensor:
    """float64 values of codes that share a scale in blocks of rows x cols."""
    spread = decode_e8m0(scale).double().repeat_interleave(rows, 0).repeat_interleave(cols, 1)
    return decode_e4m3(data).double() * spread[: data.shape[0], : data.shape[1]]


def test_released_tensors_load_and_mean_what_they_say(released: Path) -> None:
    (path,) = released.glob("*.safetensors")
    stored = load_file(path)
    model = checkpoint.load(released, canonical_ids=canonical_ids)
    engram, config = model.config.engram, model.config
    assert engram is not None and engram == V41.engram
    ids = tokens(config, 11, 8)
    canonical = [CANONICAL[2]] * 3 + [CANONICAL[i] for i in ids[0].tolist()]
    S, D = config.hc_mult, config.hidden_size
    x = torch.randn(1, 11, S, D, generator=torch.Generator().manual_seed(8))
    assert model.ngrams is not None
    rows = model.ngrams(ids, None, 0)
    for number, layer in enumerate(engram.layer_ids):
        part = {name: stored[f"layers.{layer}.engram.{name}"] for name in (
            "embed.weight", "embed.scale", "wkv.weight", "wkv.scale", "q_weight", "k_weight")
        }  # fmt: skip
        assert part["wkv.weight"].shape == ((S + 1) * D, 24 // 4 * 64)
        wkv = get_weight(model, f"layers.{layer}.engram.wkv.weight")
        assert isinstance(wkv, QuantizedTensor) and wkv.format is FP8_32
        table = blockwise(part["embed.weight"], part["embed.scale"], 1, 32)
        matrix = blockwise(part["wkv.weight"], part["wkv.scale"], 32, 32)
        q, k = part["q_weight"].double(), part["k_weight"].double()
        memory = model.engrams()[layer]
        for policy in (EXACT, FAST) if available() else (EXACT,):
            ticket = memory.submit(rows[number], policy)
            added = (memory(x, ticket, 0, None, policy) - x)[0].double()
            for t, numbers in enumerate(hashed_rows(engram, number, canonical)):
                out = matrix @ table[numbers].flatten()
                want = gated(x[0, t].double(), out[: S * D].view(S, D), out[S * D :], q, k,
                             config.rms_norm_eps)  # fmt: skip
                error = (added[t] - want).norm() / want.norm()
                assert float(error) < 2e-6 * (10 if policy is FAST else 1), (layer, t)


def test_projections_in_small_blocks_are_exported_as_they_are(
    released: Path, tmp_path: Path
) -> None:
    model = checkpoint.load(released, canonical_ids=canonical_ids)
    otherwise = checkpoint.make_plan(released).otherwise
    assert set(otherwise.values()) == {FP8_32}
    checkpoint.export_released(model, tmp_path / "out", otherwise=otherwise)
    (before,), (after,) = released.glob("*.safetensors"), (tmp_path / "out").glob("*.safetensors")
    stored, written = load_file(before), load_file(after)
    assert written.keys() == stored.keys() | {"ngrams.token_map"}
    for name, tensor in stored.items():
        assert torch.equal(written[name].view(torch.uint8), tensor.view(torch.uint8)), name
    again = checkpoint.load(tmp_path / "out")
    ids = tokens(model.config, 9, 1)
    assert torch.equal(again(ids).logits_BTV, model(ids).logits_BTV)


def test_without_its_tokenizer_the_released_model_is_not_loaded(released: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no ngrams\.token_map"):
        checkpoint.load(released)
    with pytest.raises(ConfigError, match="engram_compressed_vocab_size 256"):
        checkpoint.load(released, canonical_ids=lambda size: [0] * size)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers.1.engram.embed.weight", "mis-shaped"),
        ("layers.4.engram.embed.scale", "mis-shaped"),
        ("layers.4.engram.wkv.scale", "mis-shaped"),
        ("layers.1.engram.q_weight", "mis-shaped"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    released: Path, name: str, message: str, tmp_path: Path
) -> None:
    (path,) = released.glob("*.safetensors")
    tensors = load_file(path)
    (tmp_path / "config.json").write_text((released / "config.json").read_text())
    save_file(tensors | {name: tensors[name][1:].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.make_plan(tmp_path)
    assert name in str(caught.value)
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing") as caught:
        checkpoint.make_plan(tmp_path)
    assert name in str(caught.value)


def test_sizes_of_other_tables_are_refused(released: Path, tmp_path: Path) -> None:
    values = json.loads((released / "config.json").read_text())
    values["engram_num_embeddings"][0] += 2
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="engram_num_embeddings"):
        checkpoint.read_config(tmp_path)
