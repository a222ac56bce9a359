"""A small vocabulary that is cut like V4's: same pre-tokenizer, same control tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dsv4.encoding.tokenizer import Tokenizer

# What the tests of this folder share is a plain module beside them.
sys.path.insert(0, str(Path(__file__).parent))

from encoding_cases import train


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the small tokenizer.json."""
    return train(tmp_path_factory.mktemp("vocabulary") / "tokenizer.json")


@pytest.fixture(scope="session")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return Tokenizer.from_file(vocabulary)


@pytest.fixture(scope="session")
def spec(vocabulary: Path) -> str:
    """The small tokenizer.json as text, to be damaged."""
    text = vocabulary.read_text(encoding="utf-8")
    assert json.loads(text)["added_tokens"]
    return text
