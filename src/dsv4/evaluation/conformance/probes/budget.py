"""What a run may take: time and tokens, counted while it takes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

ANSWERS = 8
"""One in so many tokens may be an answer's: those cost more, and take longer."""


class Spent(Exception):
    """There is nothing left to ask the next question with; the text says of what."""


class Budget:
    """Seconds and tokens of one run. Any thread may take from it.

    `tokens`: of prompts and answers together. `stopped`: whether somebody asked the run to end.
    """

    def __init__(
        self, seconds: float, tokens: int, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._begin, self._seconds = time.monotonic(), seconds
        self._tokens, self._answers = tokens, tokens // ANSWERS
        self._stopped = stopped
        self._lock = threading.Lock()
        self.requests = self.prompt = self.cached = self.answer = 0

    def take(self, prompt: int, answer: int) -> None:
        """Before a request of about this size. Raises Spent if it does not fit any more."""
        if self._stopped():
            raise Spent("interrupted")
        with self._lock:
            if self.left < 0:
                raise Spent(f"the {self._seconds / 60:g} minutes are over (--minutes)")
            used = self.prompt + self.answer
            if used + prompt + answer > self._tokens or self.answer + answer > self._answers:
                raise Spent(f"the {self._tokens:,} tokens are used up (--max-tokens)")
            self.requests += 1
            self.prompt += prompt
            self.answer += answer

    def correct(self, guessed: tuple[int, int], prompt: int, answer: int, cached: int = 0) -> None:
        """After it: what it took instead of what was taken for it."""
        with self._lock:
            self.prompt += prompt - guessed[0]
            self.answer += answer - guessed[1]
            self.cached += cached

    @property
    def left(self) -> float:
        """Seconds."""
        return self._seconds - (time.monotonic() - self._begin)

    @property
    def left_tokens(self) -> int:
        return self._tokens - self.prompt - self.answer

    def fits(self, share: float, since: tuple[float, int], seconds: float, tokens: int) -> bool:
        """Whether a part of the run that began `since` (see `mark`) and may take this share of
        everything has time and tokens for so much more."""
        began, used = since
        fits = began - self.left + seconds <= share * self._seconds and self.left > seconds
        return fits and self.prompt + self.answer - used + tokens <= share * self._tokens

    def mark(self) -> tuple[float, int]:
        """Where the run is."""
        return self.left, self.prompt + self.answer
