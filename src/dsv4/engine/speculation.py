"""Guessing ahead with the prediction block (MTP, report 2.1), while it pays.

A guess is fed together with the newest token. The token that the sampler then draws is the one it
would have drawn anyway, so a guess never changes the answer: if it equals the draw, the next
logits are there already, and if not, they are thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dsv4.engine.sequence import Sequence
from dsv4.model.transformer import Transformer

Mode = Literal["auto", "on", "off"]

TRIAL = 24
"""Steps over which guessing and not guessing are compared."""
AGAIN_AFTER = 1024
"""Steps after which they are compared anew."""


@dataclass(slots=True)
class _Rate:
    """Tokens and seconds of some steps."""

    tokens: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Speculation:
    """Decides whether to guess, and makes the guesses.

    In mode `auto` both ways are timed in turn, and the faster is taken until the next comparison.
    `guessed` and `right` count guesses.
    """

    model: Transformer
    mode: Mode = "auto"
    guessed: int = 0
    right: int = 0
    _active: bool = False
    _steps: int = 0
    _batch: int = 0
    _others: int = 0
    _with: _Rate = field(default_factory=_Rate)
    _without: _Rate = field(default_factory=_Rate)

    def __post_init__(self) -> None:
        if not self.model.mtp:
            self.mode = "off"
        self._active = self.mode != "off"

    @property
    def active(self) -> bool:
        """Whether guesses are made now."""
        return self._active

    @property
    def acceptance(self) -> float:
        """The share of guesses that were right."""
        return self.right / self.guessed if self.guessed else 0.0

    @property
    def gain(self) -> float | None:
        """Speed with guesses over speed without, as last compared."""
        if not self._with.seconds or not self._without.seconds:
            return None
        return self._with.per_second / self._without.per_second

    def measured(self, batch: int, tokens: int, seconds: float) -> None:
        """Note a step in which `batch` sequences only decoded; decides about the next one.

        Only steps of one size are compared; where sizes change too often, the comparison begins
        again with the new one.
        """
        if self.mode != "auto":
            return
        if self._steps < 2 * TRIAL and batch != self._batch:
            self._others += 1
            if self._steps and self._others < 4 * TRIAL:
                return
            self._begin(batch)
        self._steps += 1
        if self._steps <= 2 * TRIAL:
            rate = self._with if self._active else self._without
            rate.tokens += tokens
            rate.seconds += seconds
            if self._steps == TRIAL:
                self._active = False
            elif self._steps == 2 * TRIAL:
                self._active = self._with.per_second > self._without.per_second
        elif self._steps >= AGAIN_AFTER:
            self._begin(batch)

    def _begin(self, batch: int) -> None:
        self._steps, self._active, self._batch, self._others = 0, True, batch, 0
        self._with, self._without = _Rate(), _Rate()

    def guess(self, sequence: Sequence, streams_TSD: Tensor, start: int) -> None:
        """Guess the token after a sequence's newest one.

        streams_TSD: streams of the positions from `start` to the end of its state.
        """
        state = sequence.draft_state
        if state is None:
            state = sequence.draft_state = self.model.new_mtp_state()
        if state.length != start:  # it was not followed for a while: what is missing stays unknown
            state.rewind(0)
            state.resume_blind([], start)
        T = streams_TSD.shape[0]
        ids = torch.tensor([sequence.ids[start + 1 : start + 1 + T]])
        with torch.no_grad():
            output = self.model.predict_next(streams_TSD[None], ids, state)
        sequence.draft = sequence.sampler.guess(output.logits_BTV[0, -1], 0)
        self.guessed += 1
