"""Where a command writes: data to standard output, everything for the eye to standard error."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dsv4.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


T = TypeVar("T")


def note(message: str) -> None:
    """One line for the person running the command."""
    print(message, file=sys.stderr, flush=True)


def read_input() -> str:
    """All of standard input. Raises UsageError if it is not UTF-8."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not UTF-8 text", "convert it first") from error


def write_json(value: Any) -> None:
    """The result of a command run with `--json`."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def output() -> Console:
    """Standard output for tables; lines are not cut where it is no terminal."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with an error code

    return Output(highlight=False, width=None if sys.stdout.isatty() else 160)


def table(title: str, *columns: str, left: int = 1) -> Table:
    """An empty table without rules; all columns but the first `left` hold numbers."""
    from rich.table import Table

    made = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i < left else "right", no_wrap=True)
    return made


class Done(Protocol):
    """Tells a progress bar how far the work is, how much there is once that is known, and what to
    call it, if that changes."""

    def __call__(self, done: int, total: int | None = None, label: str | None = None) -> None: ...


@contextmanager
def status(text: str) -> Iterator[None]:
    """A line on a terminal's standard error that says what is being done; gone when it is."""
    if not sys.stderr.isatty():
        yield
        return
    print(f"{text} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Done]:
    """A progress bar on standard error.

    Drawn only on a terminal and removed when done, so that logs stay readable.
    """
    if not sys.stderr.isatty():
        yield lambda done, total=None, label=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total)

        def update(done: int, total: int | None = None, label: str | None = None) -> None:
            bars.update(task, completed=done, total=total, description=label)

        yield update


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks what runs to stop, which this tells it; a second one is an ordinary interrupt."""
    asked = threading.Event()

    def stop(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def after_prompt(answer: Callable[[Done], Iterator[T]]) -> Iterator[T]:
    """The events of `answer(done)`; a bar shows how far the prompt is read before the first."""
    with progress("reading the prompt") as done:
        events = answer(done)
        first = next(events)  # an answer has at least its end
    yield first
    yield from events


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit, step in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= step:
            return f"{count / step:.2f} {unit}"
    return f"{count:.0f} B"


def quantity(count: float) -> str:
    """A large count for people: 284.33 B, 16.85 M."""
    for unit, step in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= step:
            return f"{count / step:.2f} {unit}"
    return f"{count:.0f}"
