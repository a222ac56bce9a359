"""Held-out loss of a model as a recipe measures it.

    python benchmarks/heldout_loss.py nano --corpora CORPORA [--topk N]

Prints one JSON object: mean next-token loss (nats) over the first eight batches of the held-out
texts of recipes/nano_cpu.py, which lie in a folder `eval` beside CORPORA. `--topk` overrides how
many compressed entries the indexer keeps; 128 and more read everything in rows of 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
from pathlib import Path

import torch

import dsv4
from dsv4.data.batches import Batches, Mix, Position
from dsv4.data.shards import build_shards, digest
from dsv4.training.loss import cross_entropy

RECIPE = Path(__file__).parents[1] / "recipes" / "nano_cpu.py"
BATCHES = 8


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--topk", type=int)
    args = parser.parse_args()
    model = dsv4.load(args.model)
    sources, folder = runpy.run_path(str(RECIPE))["HELDOUT"], args.corpora.parent / "eval"
    for layer in model.transformer.layers:
        if layer.attn.indexer is not None and args.topk is not None:
            layer.attn.indexer.topk = args.topk
    with tempfile.TemporaryDirectory() as shards:
        held = build_shards(
            sources,
            folder,
            model.tokenizer,
            model.config.vocab_size,
            Path(shards),
            version=digest(model.folder / "tokenizer.json"),
        )
        mix = Mix(tuple(held), (1.0,) * len(held))
        batches = Batches(mix, batch_tokens=8192, max_length=512, seed=0)
        count = min(BATCHES, batches.per_epoch())
        sums = []
        for index in range(count):
            batch = batches[Position(0, index)]
            seen = model.transformer.features(batch.ids_BT)
            sums.append(cross_entropy(model.transformer, seen, batch, ahead=1))
    loss = sum(float(s) for s, _ in sums) / sum(n for _, n in sums)
    print(json.dumps({"model": model.name, "topk": args.topk, "heldout_loss": round(loss, 4)}))


if __name__ == "__main__":
    main()
