"""Ids that a server without ids in its requests understands: those of a text that encodes to them.

Every prefix of them is a text of its own that encodes to just that prefix, so that servers can be
asked for the token after each.
"""

from __future__ import annotations

import random

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import EncodingError
from dsv4.evaluation.conformance.lengths import SEED

TRIES = 200
"""Tokens that are drawn for one place before the vocabulary is given up."""


def draw(tokenizer: Tokenizer, length: int) -> list[int]:
    """The beginning of sequence and `length - 1` ids of text: the same for every run.

    Raises EncodingError for a vocabulary from which no such text can be made.
    """
    rng = random.Random(SEED)
    ids: list[int] = []
    text = ""
    while len(ids) < length - 1:
        for _ in range(TRIES):
            drawn = rng.randrange(tokenizer.vocab_size)
            if tokenizer.is_control(drawn):
                continue
            piece = tokenizer.token_bytes(drawn).decode("utf-8", "replace")
            if not piece or "\ufffd" in piece or not piece.isprintable():
                continue
            if tokenizer.encode(text + piece) == [*ids, drawn]:
                break
        else:
            raise EncodingError(
                f"no text of {length} tokens encodes to them", "its tokens join one another"
            )
        ids.append(drawn)
        text += piece
    return [tokenizer.bos_id, *ids]
