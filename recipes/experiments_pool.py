"""Processes that work through tasks beside each other; one that fails takes nothing else along."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What came of a task: a result, or the text of what went wrong."""

    task: T
    result: R | None
    error: str = ""


class Pool(Generic[T, R]):
    """Up to `jobs` processes that call `work` (a function of a module) on one task after another.

    A process whose task failed is replaced: an error of a GPU spoils all that comes after it.
    """

    def __init__(self, work: Callable[[T], R], jobs: int) -> None:
        self._work, self._jobs = work, jobs
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, T]] = {}

    def __enter__(self) -> Pool[T, R]:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes, whatever they do."""
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            worker.kill()

    def outcomes(
        self, tasks: Sequence[T], until: float = float("inf"), kill: float = float("inf")
    ) -> Iterator[Outcome[T, R]]:
        """Do the tasks in order and give the outcomes as they come.

        until: time (of `time.monotonic`) after which none is begun. kill: time at which those
        that still run are ended, with an error. Tasks that were not begun have no outcome.
        """
        waiting = deque(tasks)
        while True:
            while waiting and len(self._busy) < self._jobs and time.monotonic() < until:
                worker = self._idle.pop() if self._idle else _Worker(self._work)
                self._busy[worker.connection] = worker, waiting.popleft()
                worker.begin(self._busy[worker.connection][1])
            if not self._busy:
                return
            left = max(0.0, kill - time.monotonic())
            ready = wait(list(self._busy), min(left, 3600.0))
            for connection in ready:
                assert isinstance(connection, Connection)
                worker, task = self._busy.pop(connection)
                result, error = worker.end()
                if error:
                    worker.kill()
                else:
                    self._idle.append(worker)
                yield Outcome(task, result, error)
            if not ready and time.monotonic() >= kill:
                for worker, task in self._busy.values():
                    worker.kill()
                    yield Outcome(task, None, "ended: out of time")
                self._busy.clear()
                return


class _Worker:
    """One process and the connection to it."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        # Started afresh, not forked: CUDA does not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(work, theirs), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process closes the pipe

    def begin(self, task: Any) -> None:
        """Hand over a task; of a process that is gone `end` tells."""
        with contextlib.suppress(OSError):
            self.connection.send(task)

    def end(self) -> tuple[Any, str]:
        """(result, error) of its task, one of them empty."""
        try:
            result, error = self.connection.recv()
            return result, error
        except (EOFError, OSError):
            self._process.join(10)
            return None, f"the process ended with exit code {self._process.exitcode}"

    def kill(self) -> None:
        self._process.kill()
        self._process.join(10)
        self.connection.close()


def _serve(work: Callable[[Any], Any], connection: Connection) -> None:
    """Work through what comes, until an error or the end of the parent."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = connection.recv()
            try:
                answer = work(task), ""
            except BaseException:
                connection.send((None, traceback.format_exc()))
                return
            connection.send(answer)
