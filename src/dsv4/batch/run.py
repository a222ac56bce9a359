"""Sending a batch: several requests at a time, within a budget, until all have a result."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from decimal import Decimal

from dsv4.batch.plan import Plan, Planned
from dsv4.batch.results import Results
from dsv4.batch.target import Target
from dsv4.errors import RequestError
from dsv4.evaluation.client import NO_ANSWER, PASSING, Response

TOGETHER = 8
"""Requests at a time to an API, unless somebody says otherwise."""

TOGETHER_HERE = 32
"""Those to the engine: what it computes together it computes faster (docs/batch.md)."""

REFUSED = frozenset({401, 402})
"""Statuses that every further request would get: no key, no money."""

STRANDED = 16
"""Requests in a row without an answer, after which nobody is there."""

POLL_SECONDS = 0.1

_Arrived = tuple[Planned, Response | BaseException]


def run(
    plan: Plan,
    results: Results,
    target: Target,
    *,
    together: int = TOGETHER,
    budget: Decimal | None = None,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[str], None] = lambda name: None,
) -> str | None:
    """Ask for all that has no result yet, and keep what comes. Says why it ended before all had
    one; None: all have one.

    `budget`: USD that all results together may cost: a request is sent only if it fits with all
    that is under way, each at its most. When `stopped` says so nothing is sent any more, and what
    is under way (and may be paid for) is waited for. `progress` is told the custom_id of
    every result.

    Raises RequestError if every request would be refused, or nobody answers; what has come until
    then is kept.
    """
    return _Run(plan, results, target, together, budget).go(stopped, progress)


class _Run:
    def __init__(
        self, plan: Plan, results: Results, target: Target, together: int, budget: Decimal | None
    ) -> None:
        self._plan, self._results, self._target = plan, results, target
        self._budget = budget
        self._left = plan.left(results.known)[::-1]
        self._running: dict[str, Decimal] = {}
        """custom_id -> USD it may cost."""
        self._spent = plan.spent(results.known)
        self._unanswered = 0
        self._fatal: BaseException | None = None
        self._asked: queue.SimpleQueue[Planned | None] = queue.SimpleQueue()
        self._arrived: queue.SimpleQueue[_Arrived] = queue.SimpleQueue()
        self._together = min(together, len(self._left))
        for _ in range(self._together):
            # Daemons: one that waits for a server does not keep the program from ending.
            threading.Thread(target=self._work, daemon=True).start()

    def go(self, stopped: Callable[[], bool], progress: Callable[[str], None]) -> str | None:
        stopping = False
        try:
            while True:
                if not stopping and (stopped() or self._fatal is not None):
                    stopping = True
                    self._target.settle()
                while not stopping and len(self._running) < self._together and self._next():
                    pass
                if not self._running:
                    break
                try:
                    planned, answer = self._arrived.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if self._take(planned, answer, stopping):
                    progress(planned.request.custom_id)
        finally:
            for _ in range(self._together):
                self._asked.put(None)
        if self._fatal is not None:
            raise self._fatal
        if not self._left:
            return None
        return "interrupted" if stopping else "the limit of cost is reached"

    def _next(self) -> bool:
        """Send one more; False if there is none, or it does not fit into the budget now."""
        if not self._left:
            return False
        planned = self._left[-1]
        most = planned.most
        sum_then = self._spent + sum(self._running.values()) + most
        if self._budget is not None and sum_then > self._budget:
            return False
        self._running[self._left.pop().request.custom_id] = most
        self._asked.put(planned)
        return True

    def _take(self, planned: Planned, answer: Response | BaseException, stopping: bool) -> bool:
        """Whether what arrived is a result; else the request is left for the next run."""
        del self._running[planned.request.custom_id]
        if isinstance(answer, Response):
            self._unanswered = 0
            if answer.status in REFUSED:
                self._fatal = _refused(answer)
            if answer.status in REFUSED or (stopping and answer.status in PASSING):
                self._left.append(planned)
                return False
        elif not isinstance(answer, RequestError) or stopping:
            if not isinstance(answer, RequestError):
                self._fatal = answer
            self._left.append(planned)
            return False
        elif answer.code == NO_ANSWER:
            self._unanswered += 1
            if self._unanswered >= STRANDED:
                self._fatal = answer
        outcome = self._results.add(planned.request, answer)
        self._spent += self._plan.spent({planned.request.custom_id: outcome})
        return True

    def _work(self) -> None:
        """A thread that asks what it is given, one after the other."""
        while (planned := self._asked.get()) is not None:
            request = planned.request
            answer: Response | BaseException
            try:
                answer = self._target.post(request.path, self._plan.requests.body(request))
            except BaseException as error:
                answer = error
            self._arrived.put((planned, answer))


def _refused(answer: Response) -> RequestError:
    error = answer.body.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    return RequestError(
        f"every request is refused: {answer.status} {said or 'without a reason'}",
        "check the key and what the account has left",
        status=answer.status,
    )
