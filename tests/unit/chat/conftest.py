"""Grammars over two vocabularies: every byte a token, and the trained one of the small model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.conftest import byte_vocabulary

from dsv4 import locate
from dsv4.chat.grammar import Grammars
from dsv4.chat.vocabulary import Vocabulary
from dsv4.encoding.tokenizer import Tokenizer

# What the tests of this folder share is a plain module beside them.
sys.path.insert(0, str(Path(__file__).parent))

UNUSED = 5
"""Ids of the model that its vocabulary does not use."""


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Tokenizer]:
    trained = Tokenizer.from_folder(locate.folder(locate.DEFAULT))
    return {"bytes": Tokenizer(byte_vocabulary()), "trained": trained}


@pytest.fixture(scope="session")
def grammars(tokenizers: dict[str, Tokenizer]) -> dict[str, Grammars]:
    return {
        name: Grammars(Vocabulary(tokenizer, tokenizer.vocab_size + UNUSED))
        for name, tokenizer in tokenizers.items()
    }
