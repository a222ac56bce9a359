"""What tests of the kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dsv4.ops.cpu.native import native


@pytest.fixture(params=native.instruction_sets() if native is not None else [])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test once with every instruction set of this processor, and afterwards the usual one."""
    assert native is not None
    before = native.instruction_set()
    assert native.use_instruction_set(request.param)
    yield request.param
    native.use_instruction_set(before)
