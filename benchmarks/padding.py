"""How much of the batches is padding: `python benchmarks/padding.py CORPORA RECIPE [SHARE]`.

Tokenises a share of the documents of a recipe's mix (by default 5 %) with the bundled tokenizer
and prints, for several row lengths, the part of all positions that holds no token; and the same
for long rows in which every document begins where a block of the HCA compressor does, as it would
have to if documents were packed and no block may hold tokens of two.
"""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsv4.config import HCA
from dsv4.data.batches import Batches, Mix, Position
from dsv4.data.corpora import read
from dsv4.data.shards import make_shard
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.locate import folder

BATCH_TOKENS = 8192
LENGTHS = (512, 2048, 8192)


def main() -> None:
    corpora, recipe = Path(sys.argv[1]), sys.argv[2]
    share = float(sys.argv[3]) if len(sys.argv) > 3 else 0.05
    config = runpy.run_path(recipe)["config"](corpora, Path("unused"))
    tokenizer = Tokenizer.from_file(folder("nano") / "tokenizer.json")
    shards, epochs = [], []
    for source in config.sources:
        documents = list(read(replace(source, keep=source.keep * share), corpora))
        if documents:
            shards.append(make_shard(source.name, documents, tokenizer, tokenizer.vocab_size))
            epochs.append(source.epochs)
    mix = Mix(tuple(shards), tuple(epochs))
    count, tokens = sum(s.documents for s in shards), sum(len(s.tokens) for s in shards)
    print(f"{count} documents, {tokens} tokens, mean {tokens / count:.0f}")
    for length in LENGTHS:
        batches = Batches(mix, batch_tokens=BATCH_TOKENS, max_length=length, seed=0)
        made = [batches[Position(0, i)] for i in range(batches.per_epoch())]
        places = sum(batch.ids_BT.numel() for batch in made)
        real = sum(batch.tokens for batch in made)
        print(f"rows up to {length}: {1 - real / places:.1%} of {places} positions are padding")
    lengths = np.concatenate([np.diff(shard.offsets) for shard in shards])
    packed = int((-(-lengths // HCA) * HCA).sum())
    print(f"packed, samples at multiples of {HCA}: {1 - lengths.sum() / packed:.1%} of {packed}")


if __name__ == "__main__":
    main()
