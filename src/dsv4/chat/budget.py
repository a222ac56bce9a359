"""An end to thinking: after so many tokens `</think>` is the only one that may come."""

from __future__ import annotations

from torch import Tensor

from dsv4.chat.vocabulary import Vocabulary


class Budget:
    """For an answer that begins inside the reasoning. A Constraint."""

    def __init__(self, tokens: int, vocabulary: Vocabulary) -> None:
        self._left = tokens
        # A calls block inside the reasoning ends it too.
        self._ends = (vocabulary.think_close_id, vocabulary.dsml_id)
        self._only_closer_V = vocabulary.only(vocabulary.think_close_id)
        self._over = False

    def allowed(self) -> Tensor | None:
        return self._only_closer_V if self._left <= 0 and not self._over else None

    def accept(self, token: int) -> None:
        self._left -= 1
        self._over = self._over or token in self._ends
