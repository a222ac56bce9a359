"""A pytest plugin: the whole session computes with a known failure (`tools/mutations.py`)."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from dsv4 import ops
from dsv4.evaluation.conformance.faults import fault

VARIABLE = "DSV4_PLANTED"
"""Name of the failure; empty: none, but op by op as with one."""

_session = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    name = os.environ[VARIABLE]
    _session.enter_context(fault(name).planted() if name else ops.unfused())


def pytest_unconfigure(config: pytest.Config) -> None:
    _session.close()
