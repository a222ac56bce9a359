"""Which prompt is computed, and at which lengths implementations are wrong.

Known failures begin at a block's end (prompts whose length is 3 mod 4), at 128 tokens (the first
HCA entry, the edge of the window), and where the indexer first drops an entry (architecture notes,
section 16).
"""

from __future__ import annotations

import random

from dsv4.config import CSA, HCA, ModelConfig

SEED = 4


def prompt(config: ModelConfig, length: int) -> list[int]:
    """The beginning of sequence, then random ids: the same for every run and machine."""
    rng = random.Random(SEED)
    return [0, *(rng.randrange(config.vocab_size) for _ in range(length - 1))]


def onset(config: ModelConfig) -> int:
    """The shortest prompt whose last token does not see all its compressed entries."""
    return CSA * (config.index_topk + 1)


def boundaries(config: ModelConfig, length: int) -> list[int]:
    """Lengths up to `length` at which something begins or ends, in order."""
    window, first = config.sliding_window, onset(config)
    found = {3, 4, 7, 8}
    for edge in (window, HCA, 2 * HCA, first):
        found |= {edge - 1, edge, edge + 1, edge + 3}
    return sorted(number for number in found if 1 <= number <= length) or [length]


def default_length(config: ModelConfig) -> int:
    """Past the second HCA entry and the first dropped entry; 3 mod 4."""
    wanted = max(2 * HCA, onset(config)) + 3
    return min(wanted + (3 - wanted) % CSA, config.max_position_embeddings)


def prefixes(config: ModelConfig, length: int) -> list[int]:
    """Lengths up to `length` after which a server is asked for the next token, in order: around 4,
    128 and 256, the window, the first dropped entry, 512, and all of it."""
    found = {3, 4, 5, 512, length}
    for edge in (HCA, 2 * HCA, config.sliding_window, onset(config)):
        found |= {edge - 1, edge, edge + 1}
    return sorted(number for number in found if 1 <= number <= length)


def length_of_prefixes(config: ModelConfig) -> int:
    """Past 512 and past the first dropped entry."""
    return min(max(512, onset(config) + 1), config.max_position_embeddings)
