"""What every test relies on: one torch thread, nothing fetched, nothing left uninitialised."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before torch is imported: small tensors are faster on one thread, and results do not depend
# on how many cores the machine has.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed torch from the name of the test, so that a test draws the same numbers alone."""
    import sys
    import zlib

    if "torch" in sys.modules:
        import torch

        torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
    yield
