"""One request inside the engine: its ids so far, its decoding state, and who is told.

T: ids, L: layers, K: experts per token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import Tensor

from dsv4.cache.keys import Chain
from dsv4.cache.prefix import Node
from dsv4.engine.request import Candidate, Event, Finish, FinishReason, Generation, Token
from dsv4.engine.sampler import Draw, Sampler
from dsv4.model.state import State

Deliver = Callable[[Event | Exception], None]
"""Takes what the engine has for a request, in the engine's thread; must not wait. The last call
brings a Finish or an exception."""


class Sequence:
    """A request on its way. Everybody but the engine may only `cancel` it."""

    def __init__(self, generation: Generation, deliver: Deliver, number: int, chain: Chain) -> None:
        self.generation, self.chain = generation, chain
        self.number = number
        """Requests are numbered as they arrive."""
        self.ids = list(generation.ids)
        self.sampler = Sampler(generation.sampling)
        self.reason: FinishReason | None = None
        self.cached: int | None = None
        """Ids of the prompt that were not computed again; None before it was admitted."""
        self._stop: Token | None = None
        self._routing: list[tuple[int, Tensor]] = []  # (first position, experts [T, L, K])

        # What it holds while it is running.
        self.state: State | None = None
        self.nodes: list[Node] = []
        """Its blocks that the prefix cache knows."""
        self.exact_from = 0
        """Length from which on the state's rings are right."""
        self.shared = 0
        """Length up to which somebody else had the same blocks when it was admitted."""
        self.draft_state: State | None = None
        self.draft: int | None = None
        """A guess at the token after the newest."""

        self._deliver = deliver
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop within a step; what is still delivered ends with Finish("cancelled")."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def user(self) -> str:
        return self.generation.user

    @property
    def length(self) -> int:
        """Ids that the state has seen."""
        return self.state.length if self.state is not None else 0

    @property
    def waiting_ids(self) -> int:
        """Ids that the state has not seen yet."""
        return len(self.ids) - self.length

    @property
    def produced(self) -> int:
        """Tokens of the answer so far."""
        return len(self.ids) - len(self.generation.ids)

    @property
    def decoding(self) -> bool:
        """Whether only its newest token is new to the state."""
        return self.produced > 0 and self.waiting_ids == 1

    @property
    def own_blocks(self) -> int:
        """Blocks that it alone holds. Any thread may ask."""
        state = self.state
        return 0 if state is None else len(state.table) - len(self.nodes)

    def deliver(self, event: Event | Exception) -> None:
        self._deliver(event)

    def take(self, draw: Draw, context: int) -> None:
        """Add a drawn token to the answer; sets `reason` if that ends it."""
        generation = self.generation
        if generation.constraint is not None:
            generation.constraint.accept(draw.token)
        best = draw.best(generation.alternatives) if generation.alternatives else ()
        token = Token(draw.token, draw.logprob, tuple(Candidate(*pair) for pair in best))
        if draw.token in generation.stop_ids:
            self.reason, self._stop = "stop", token
            return
        self.ids.append(draw.token)
        self.deliver(token)
        if self.produced >= generation.max_tokens or len(self.ids) >= context:
            self.reason = "length"

    def routed(self, start: int, experts_TLK: Tensor) -> None:
        """Ids from position `start` on were computed by these experts. What a later call says of a
        position counts: a guess may have stood there before."""
        self._routing.append((start, experts_TLK))

    def end(self) -> None:
        """Tell that it is over, after `reason` was set."""
        assert self.reason is not None
        self.deliver(Finish(self.reason, self.cached or 0, self._stop, self._experts()))

    def _experts(self) -> Tensor | None:
        """Experts `[T, L, K]` of all ids that are computed by the time the newest is drawn."""
        if not self._routing:
            return None
        length = len(self.ids) - (self.reason != "stop")
        whole = self._routing[0][1].new_full((length, *self._routing[0][1].shape[1:]), -1)
        for start, experts_TLK in self._routing:
            whole[start : start + len(experts_TLK)] = experts_TLK[: max(0, length - start)]
        return whole
