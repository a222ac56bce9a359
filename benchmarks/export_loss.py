"""What rounding to the released formats costs.

    python benchmarks/export_loss.py MODEL EVAL RUN... [--init INIT]

The loss on held-out texts (below EVAL) and on problems of held-out splits, of the weights that were
trained (float32, the newest checkpoint of RUN, or the mean of those of several) and of the folder
MODEL that was exported from them. INIT: the folder that runs began from which leave parts as they
were; a checkpoint has the others. Both are computed in float32 without rounding anything else, so
that they differ in the stored weights alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from dsv4 import checkpoint
from dsv4.data.batches import Batch, Batches, Mix, Position
from dsv4.data.corpora import Source, read
from dsv4.data.shards import Shard, make_shard
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.model.weights import weights
from dsv4.training.checkpoint import read_weights
from dsv4.training.initial import initial_model
from dsv4.training.loss import cross_entropy

TEXTS = ("heldout_snakes", "heldout_children-ccby", "heldout_books")
TASKS = ("arithmetic", "tool_call", "tool_calls", "identity", "recall")
BATCHES = 4
"""Micro-batches of each source, 4,096 tokens each."""


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="the exported folder")
    parser.add_argument("eval", type=Path, help="folder of held-out texts")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders: the mean of their weights")
    parser.add_argument("--init", type=Path, help="what the runs began from")
    args = parser.parse_args()
    folder, heldout = args.model, args.eval
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    sources = [Source(name, f"{name}.jsonl.xz", 1, "") for name in TEXTS]
    sources += [
        Source(name, f"tasks:{name}", 1, "", split="heldout", count=400, seed=11) for name in TASKS
    ]
    config = checkpoint.read_config(folder)
    held = {
        source.name: _batches(
            make_shard(source.name, read(source, heldout), tokenizer, config.vocab_size)
        )
        for source in sources
    }
    newest = [max((run / "checkpoints").glob("step-*"), default=None) for run in args.runs]
    if None in newest:
        sys.exit(f"{args.runs[newest.index(None)]} has no checkpoint")
    model = initial_model(config, args.init or newest[0], seed=0, settle=True)
    own = dict(weights(model))
    trained = [dict(read_weights(path)) for path in newest]
    if any(one.keys() != trained[0].keys() for one in trained):
        sys.exit("the runs did not train the same parameters")
    missing = own.keys() - trained[0].keys()
    if missing and not args.init:
        sys.exit(f"{newest[0]} lacks {min(missing)} and {len(missing) - 1} others: name --init")
    for name in trained[0]:
        own[name].copy_(torch.stack([one[name].float() for one in trained]).mean(0))
    models = {"trained": model, "exported": initial_model(config, folder, seed=0)}
    losses = {
        name: {source: _loss(one, batches) for source, batches in held.items()}
        for name, one in models.items()
    }
    print(f"{', '.join(map(str, newest))} and {folder}, nats per learned token")
    for source in held:
        before, after = losses["trained"][source], losses["exported"][source]
        print(f"{source}: {before:.4f} trained, {after:.4f} exported, {after / before - 1:+.2%}")
    means = {name: sum(found.values()) / len(found) for name, found in losses.items()}
    before, after = means["trained"], means["exported"]
    print(f"mean: {before:.4f} trained, {after:.4f} exported, {after / before - 1:+.2%}")


def _batches(shard: Shard) -> list[Batch]:
    made = Batches(Mix((shard,), (1.0,), masked=True), batch_tokens=4096, max_length=1024, seed=0)
    return [made[Position(0, number)] for number in range(min(BATCHES, made.per_epoch()))]


def _loss(model, batches: list[Batch]) -> float:
    """Mean over the tokens that are to be learned."""
    total, count = 0.0, 0
    for batch in batches:
        summed, learned = cross_entropy(model, model.features(batch.ids_BT), batch, ahead=1)
        total, count = total + float(summed), count + learned
    return total / count


if __name__ == "__main__":
    main()
