"""Loss spikes: what counts as one, and what is done about it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

_LEAST = 16
_FLATTEST = 0.01


@dataclass(frozen=True)
class SpikeSettings:
    """deviations: a loss so many standard deviations above the mean of the last `window` is a
    spike. lag, steps: the run then goes back to the last regular checkpoint and continues with
    experts chosen by weights `lag` steps old, until `steps` steps past the spike.
    """

    deviations: float = 4.0
    window: int = 64
    lag: int = 2
    steps: int = 100


@dataclass
class SpikeDetector:
    """Remembers recent losses of one kind. `regime`, `losses`: its whole state."""

    settings: SpikeSettings
    regime: str = ""
    losses: list[float] = field(default_factory=list)

    def is_spike(self, loss: float, regime: str) -> bool:
        """Whether the loss of a step is one; if not, it is remembered.

        Losses of another regime are forgotten. Until 16 are known only a loss that is not a number
        is a spike. The deviation counts as 1 % of the mean at least, so that the noise of a loss
        that hardly moves is none.
        """
        if not math.isfinite(loss):
            return True
        if regime != self.regime:
            self.regime, self.losses = regime, []
        if len(self.losses) >= _LEAST:
            mean = statistics.fmean(self.losses)
            deviation = max(statistics.pstdev(self.losses), _FLATTEST * abs(mean))
            if loss > mean + self.settings.deviations * deviation:
                return True
        self.losses = [*self.losses, loss][-self.settings.window :]
        return False
