"""How much of the batches is padding: `python benchmarks/padding.py CORPORA SHARE GLOB ...`.

Tokenises a share of the documents in files below CORPORA with the bundled tokenizer and prints,
for several row lengths, the part of all positions that holds no token; and the same for long rows
in which every document begins where a block of the HCA compressor does, as it would have to if
documents were packed and no block may hold tokens of two.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from dsv4.config import HCA
from dsv4.data.batches import Batches, Mix, Position
from dsv4.data.corpora import Source, read
from dsv4.data.shards import make_shard
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.locate import folder

BATCH_TOKENS = 8192
LENGTHS = (512, 2048, 8192)


def main() -> None:
    corpora, share = Path(sys.argv[1]), float(sys.argv[2])
    tokenizer = Tokenizer.from_file(folder("nano") / "tokenizer.json")
    sources = [Source(glob, glob, 1.0, "not stated", keep=share) for glob in sys.argv[3:]]
    shards = [
        make_shard(source.name, read(source, corpora), tokenizer, tokenizer.vocab_size)
        for source in sources
    ]
    mix = Mix(tuple(shards), (1.0,) * len(shards))
    lengths = np.concatenate([np.diff(shard.offsets) for shard in shards])
    print(f"{len(lengths)} documents, {lengths.sum()} tokens, mean {lengths.mean():.0f}")
    for length in LENGTHS:
        batches = Batches(mix, batch_tokens=BATCH_TOKENS, max_length=length, seed=0)
        made = [batches[Position(0, i)] for i in range(batches.per_epoch())]
        places = sum(batch.ids_BT.numel() for batch in made)
        real = sum(batch.tokens for batch in made)
        print(f"rows up to {length}: {1 - real / places:.1%} of {places} positions are padding")
    packed = int((-(-lengths // HCA) * HCA).sum())
    print(f"packed, samples at multiples of {HCA}: {1 - lengths.sum() / packed:.1%} of {packed}")


if __name__ == "__main__":
    main()
