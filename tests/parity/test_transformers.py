"""`exact` against transformers' independent implementation, on freshly drawn models.

Small index_topk makes the indexer drop entries from a few dozen tokens on; transformers' own
tests stop at 234 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dsv4.checkpoint import export_released, export_transformers
from dsv4.evaluation.conformance.against.comparing import Other, verify_against
from dsv4.model.transformer import Transformer
from tests.parity.models import (
    FLASH_LIKE,
    PRO_LIKE,
    SAME_ORDER,
    draw_config,
    draw_model,
    oracle,
    tokens,
)

LENGTHS = (1, 7, 127, 128, 129, 300, 515)
LONGEST = {1: 1030, 2: 1030, 3: 2060}
"""Of each seed: the oracle's time grows with the square, and nothing begins after 515 tokens."""


# Two entries whose scores differ by less than float32 noise at the edge of the selection may be
# chosen differently by two right implementations, and which noise there is depends on the
# processor: one query in 2,060 with seed 0, or with seed 3 on an Intel processor (3e-4 in all, as
# later tokens read what it wrote). So the longest text may differ a little, but at few tokens.
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("schedule", [FLASH_LIKE, PRO_LIKE], ids=["flash", "pro"])
@torch.no_grad()
def test_logits_agree(schedule: tuple[int, ...], seed: int, tmp_path: Path) -> None:
    config = draw_config(seed, schedule)
    model = draw_model(config, seed)
    other = oracle(model, tmp_path / "model")
    for length in (*LENGTHS, LONGEST[seed]):
        ids = tokens(config, length, seed + length)
        want = other(input_ids=ids, use_cache=False).logits[0]
        found = model(ids).logits_BTV[0]
        errors = (found - want).norm(dim=-1) / want.norm(dim=-1)
        whole = ((found - want).norm() / want.norm()).item()
        loose = length == 2060 and not SAME_ORDER
        assert whole <= (1e-3 if loose else 1e-4), f"{length} tokens"
        assert errors.median() <= 1e-5, f"{length} tokens"


@torch.no_grad()
def test_selection_drops_entries() -> None:
    """The comparison above is worth something only if the indexer's choice matters."""
    config = draw_config(0, FLASH_LIKE)
    model = draw_model(config, 0)
    ids = tokens(config, 300, 0)
    chosen = model(ids).logits_BTV
    for layer in model.layers:
        if layer.attn.indexer is not None:
            layer.attn.indexer.topk = 300
    everything = model(ids).logits_BTV
    onset = 4 * config.index_topk + 3
    assert torch.allclose(chosen[:, : onset - 1], everything[:, : onset - 1], atol=1e-4)
    assert (chosen[:, onset:] - everything[:, onset:]).norm() > 0.01 * everything.norm()


@pytest.mark.parametrize("export", [export_transformers, export_released])
def test_verify_says_that_they_agree(
    export: Callable[[Transformer, Path], None], tmp_path: Path
) -> None:
    """`dsv4 verify --against transformers`, of a folder in either layout."""
    export(draw_model(draw_config(1, FLASH_LIKE), 1), tmp_path / "model")
    report = verify_against(tmp_path / "model", Other("transformers", length=60))
    assert report.passed, report.findings
    theirs, official, _ = report.drifts
    assert theirs.mean < 1e-6 * official.mean
    assert report.findings[1].what == "predictions are those of exact"
