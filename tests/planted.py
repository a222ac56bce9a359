"""A pytest plugin: every test computes with a known failure (`tools/mutations.py`)."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from dsv4 import ops
from dsv4.evaluation.conformance.faults import fault
from tests.engine_faults import ENGINE_FAULTS

VARIABLE = "DSV4_PLANTED"
"""Name of the failure; empty: none, but op by op as with one of the arithmetic."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Planted anew for each test: one that binds ops otherwise takes the change away."""
    name = os.environ[VARIABLE]
    if name in ENGINE_FAULTS:
        planted = ENGINE_FAULTS[name].planted()
    else:
        planted = fault(name).planted() if name else ops.unfused()
    with planted:
        return (yield)
