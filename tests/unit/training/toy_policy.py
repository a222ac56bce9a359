"""The tiny architecture at random weights, and a question it can learn in a few steps."""

import json
from dataclasses import replace

import torch
from tests.conftest import byte_vocabulary

from dsv4 import checkpoint
from dsv4.config import CSA, HCA, SWA
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.presets import preset
from dsv4.training.questions import Question

STOP = 1


def tiny(seed=0, vocab_size=64):
    """A float32 model of the tiny architecture, smaller for speed."""
    config = replace(
        preset("tiny"), vocab_size=vocab_size, hidden_size=128, moe_intermediate_size=64,
        q_lora_rank=64, o_lora_rank=64, n_routed_experts=6, num_hidden_layers=3, num_hash_layers=1,
        num_nextn_predict_layers=0, compress_ratios=(SWA, CSA, HCA),
    )  # fmt: skip
    model = Transformer(config)
    init_weights(model, seed)
    return model


def even_share(answer):
    """How many of an answer's ids are even."""
    return sum(token % 2 == 0 for token in answer) / len(answer)


class LikesEven:
    """Questions of random ids; the better the more even ids the answer has."""

    def __init__(self, max_tokens=4):
        self.max_tokens = max_tokens

    def draw(self, rng):
        ids = tuple(rng.randrange(3, 64) for _ in range(6))
        return Question("even", ids, self.max_tokens, 0.0, even_share, lambda ids: str(list(ids)))


def share_of_even(model):
    """Probability of an even id after some prompt."""
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7, 8, 9, 10]])).logits_BTV[0, -1]
    return float(torch.softmax(logits, -1)[::2].sum())


def toy_folder(path, seed=0, sharper=1.0):
    """A model folder with bytes as vocabulary. sharper: factor on its logits."""
    vocabulary = byte_vocabulary()
    model = tiny(seed, len(vocabulary["added_tokens"]) + len(vocabulary["model"]["vocab"]))
    with torch.no_grad():
        model.head.weight.mul_(sharper)
    checkpoint.export_released(model, path)
    (path / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return path


class Given:
    """Stands in for an `Actor`: gives answers that were drawn before."""

    def __init__(self, samples):
        self.samples = samples

    def sample(self, asks, temperature=1.0):
        assert len(asks) == len(self.samples)
        return self.samples
