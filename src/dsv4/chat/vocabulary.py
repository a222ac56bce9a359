"""The bytes of every token of a model, as grammars need them.

V: vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dsv4.encoding.control import DSML, THINK_CLOSE
from dsv4.encoding.tokenizer import Tokenizer

if TYPE_CHECKING:
    import xgrammar


class Vocabulary:
    """Control tokens and ids that are not used count as tokens without bytes: no text contains
    them. `size`: ids of the model."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.size = size
        self.eos_id = tokenizer.eos_id
        self.dsml_id = tokenizer.control_id(DSML)
        self.think_close_id = tokenizer.control_id(THINK_CLOSE)
        self._bytes = [
            b""
            if index >= tokenizer.vocab_size or tokenizer.is_control(index)
            else tokenizer.token_bytes(index)
            for index in range(size)
        ]
        self._ids: dict[bytes, list[int]] = {}
        for index, data in enumerate(self._bytes):
            if data:
                self._ids.setdefault(data, []).append(index)
        self._sorted = sorted(self._ids)
        self._longest = max(map(len, self._sorted), default=0)

    def bytes_of(self, token: int) -> bytes:
        """The text a token stands for, b"" for a control token."""
        return self._bytes[token]

    def starts(self, text: bytes) -> list[int]:
        """The tokens that `text` begins with."""
        lengths = range(1, min(len(text), self._longest) + 1)
        return [index for n in lengths for index in self._ids.get(text[:n], ())]

    def beyond(self, text: bytes) -> list[tuple[bytes, list[int]]]:
        """The tokens that begin with `text` and are longer: (the rest, ids)."""
        found = []
        for at in range(bisect_left(self._sorted, text), len(self._sorted)):
            data = self._sorted[at]
            if not data.startswith(text):
                break
            if len(data) > len(text):
                found.append((data[len(text) :], self._ids[data]))
        return found

    def only(self, *tokens: int) -> Tensor:
        """A mask `[V]` that allows these."""
        mask_V = torch.zeros(self.size, dtype=torch.bool)
        mask_V[list(tokens)] = True
        return mask_V

    @cached_property
    def text_V(self) -> Tensor:
        """A mask `[V]` that allows all text."""
        return torch.tensor([bool(data) for data in self._bytes])

    @cached_property
    def compiler(self) -> xgrammar.GrammarCompiler:
        """Compiles grammars for this vocabulary; imported on first use, which takes seconds."""
        import xgrammar

        info = xgrammar.TokenizerInfo(
            self._bytes, xgrammar.VocabType.RAW, vocab_size=self.size, stop_token_ids=[self.eos_id]
        )
        return xgrammar.GrammarCompiler(info, cache_enabled=False)
