"""The prefix cache in memory: what it holds does not grow with how often it is used."""

from __future__ import annotations

import torch

from dsv4.cache.prefix import MOST_STALE, PrefixCache


def test_a_prefix_that_is_used_again_and_again_costs_nothing() -> None:
    cache = PrefixCache()
    parent = cache.publish(None, b"parent", torch.zeros(1, 8, dtype=torch.uint8))
    leaf = cache.publish(parent, b"leaf", torch.zeros(1, 8, dtype=torch.uint8))
    cache.release([parent, leaf])
    for _ in range(5 * MOST_STALE):
        cache.release(cache._load([b"parent", b"leaf"]))
    assert len(cache._leaves) <= MOST_STALE + 2 * len(cache)
    assert cache.check() == []
    assert cache.evict(100) == 16
    assert len(cache) == 0
