"""The architecture with every part, small enough for dozens of optimizer steps in a test."""

import json
from dataclasses import replace

import numpy as np
from tests.conftest import byte_vocabulary

from dsv4 import checkpoint
from dsv4.data.batches import Mix
from dsv4.data.shards import Shard
from dsv4.engram import EngramConfig
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.presets import preset
from dsv4.training.language import LanguageObjective, Stream
from dsv4.training.loop import LoopSettings, Trainer

SMALL = replace(
    preset("tiny"),
    vocab_size=64,
    hidden_size=64,
    moe_intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    head_dim=32,
    qk_rope_head_dim=16,
    q_lora_rank=32,
    o_lora_rank=32,
    index_n_heads=2,
    index_head_dim=32,
    index_topk=4,
    n_routed_experts=4,
    num_experts_per_tok=2,
    num_hash_layers=1,
    compress_ratios=(0, 4, 128, 0),
    sliding_window=16,
    hc_sinkhorn_iters=2,
)


MEMORY = replace(SMALL, engram=EngramConfig((1,), 3, 2, 8, 97, SMALL.vocab_size, conv=True))
"""The same with an Engram in its paper's form."""


def new_model(config=SMALL, seed=0):
    model = Transformer(config)
    init_weights(model, seed)
    return model


def counting_mix(count=48, longest=60):
    """Documents that count upwards from a random token: easy to learn."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(20, longest, count)
    documents = [(int(draw.integers(0, 30)) + np.arange(n)) % 60 + 3 for n in lengths]
    offsets = np.cumsum([0, *map(len, documents)])
    return Mix((Shard("count", np.concatenate(documents).astype(np.uint16), offsets),), (1.0,))


def new_trainer(out, schedule, *, model=None, max_length=64, mix=None, **settings):
    """A trainer of a small model over counting documents."""
    model = model or new_model()
    stream = Stream(
        mix or counting_mix(), schedule, batch_tokens=128, max_length=max_length, seed=1
    )
    objective = LanguageObjective(model, model.config, stream, schedule)
    return Trainer(model, model.config, objective, LoopSettings(out, schedule, **settings))


def numbers(records):
    """Records without what differs between two equal runs."""
    timing = ("seconds", "tokens_per_second")
    return [{k: v for k, v in record.items() if k not in timing} for record in records]


def read_log(out):
    """The records of a run's metrics.jsonl."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return numbers([json.loads(line) for line in lines])


def small_folder(folder):
    """A model folder of random weights whose vocabulary is bytes."""
    vocabulary = byte_vocabulary()
    size = len(vocabulary["added_tokens"]) + len(vocabulary["model"]["vocab"])
    checkpoint.synth(replace(SMALL, vocab_size=size, max_position_embeddings=4096), folder, seed=1)
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return folder
