"""`dsv4 chat`: a conversation in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.options import (
    DEFAULT_MODEL,
    Effort,
    MaxTokens,
    MemoryLimit,
    MinP,
    NumericsOption,
    OptionalModel,
    Seed,
    Temperature,
    ThreadsOption,
    TopK,
    TopP,
)

if TYPE_CHECKING:
    from dsv4.chat.answer import Finish
    from dsv4.chat.engine import Engine
    from dsv4.encoding.events import Event
    from dsv4.engine.sampler import Sampling

HELP = """\
/help              this list
/system [TEXT]     set the system message, or remove it
/think [LEVEL]     none, low, high, max ...; without a level: show it
/clear             forget the conversation
/undo              take back the last question and its answer
/save FILE         write the conversation as JSON
/load FILE         continue a saved conversation
/stats             tokens and speed of the last answer
/exit              leave (also Ctrl-D)
Ctrl-C stops an answer. A line that ends in \\ goes on in the next."""

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def chat(
    model: OptionalModel = DEFAULT_MODEL,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    context_file: Annotated[
        Path | None,
        typer.Option(
            help="A text that goes with the first question, such as what dsv4 pack-repo writes.",
            metavar="FILE",
        ),
    ] = None,
    thinking: Effort = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    numerics: NumericsOption = "fast",
    threads: ThreadsOption = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Talk to a model in the terminal.

    Answers stream as they are written, thinking is shown dimmed. /help lists the commands.
    """
    import dsv4
    from dsv4.chat.request import check_effort
    from dsv4.cli.console import note
    from dsv4.cli.loading import load

    if thinking is not None:
        check_effort(thinking)
    context = "" if context_file is None else _read_text(context_file)
    with suppress(ImportError):
        import readline  # noqa: F401 (gives input() its line editing and history)
    engine = dsv4.Engine(load(model, numerics, threads, memory_limit))
    sampling = engine.model.defaults.sampling(
        seed, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p
    )
    effort = engine.model.defaults.effort if thinking is None else thinking
    session = Session(engine, sampling, effort, max_tokens, system, context)
    note(f"{engine.model.name}, numerics {engine.model.numerics}. /help lists the commands.")
    session.run()


class Session:
    """The state of one conversation, and the commands that change it.

    `messages` holds what was said; a turn joins it only when its answer is over. `context` stands
    before the first question.
    """

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling,
        effort: str,
        max_tokens: int | None,
        system: str | None,
        context: str = "",
    ) -> None:
        self._engine, self._sampling = engine, sampling
        self._context = context
        self._max_tokens = engine.model.defaults.max_tokens if max_tokens is None else max_tokens
        self.effort = effort
        self.system = system
        self.messages: list[dict[str, Any]] = []
        self._stats = "nothing was answered yet"
        self._style = sys.stdout.isatty()

    def run(self) -> None:
        """Read lines until the end of input or /exit."""
        from dsv4.errors import Dsv4Error

        while True:
            line = _read_line("> " if sys.stdin.isatty() else "")
            if line is None:
                return
            if not line.strip():
                continue
            try:
                if not line.startswith("/"):
                    self._ask(line)
                elif not self._command(line):
                    return
            except Dsv4Error as error:
                print(f"error: {error}", file=sys.stderr)
                if error.hint:
                    print(f"hint: {error.hint}", file=sys.stderr)

    def _command(self, line: str) -> bool:
        """Run a /command; False to leave."""
        from dsv4.errors import UsageError

        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        actions: dict[str, Callable[[str], None]] = {
            "help": lambda _: print(HELP),
            "system": self._set_system,
            "think": self._set_effort,
            "clear": lambda _: self._forget(0, "the conversation is empty"),
            "undo": lambda _: self._undo(),
            "save": self._save,
            "load": self._load,
            "stats": lambda _: print(self._stats),
        }
        if name in ("exit", "quit"):
            return False
        if name not in actions:
            raise UsageError(f"there is no command /{name}", "/help lists the commands")
        actions[name](rest)
        return True

    def _set_system(self, text: str) -> None:
        self.system = text or None
        print("system message set" if text else "no system message")

    def _set_effort(self, level: str) -> None:
        from dsv4.chat.request import check_effort

        if level:
            check_effort(level)
            self.effort = level
        print(f"thinking: {self.effort}")

    def _forget(self, keep: int, said: str) -> None:
        del self.messages[keep:]
        print(said)

    def _undo(self) -> None:
        asked = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if asked:
            self._forget(asked[-1], "the last question is taken back")
        else:
            print("there is nothing to take back")

    def _save(self, name: str) -> None:
        from dsv4.errors import UsageError

        if not name:
            raise UsageError("/save needs a file name", "/save talk.json")
        text = json.dumps(self._conversation(), ensure_ascii=False, indent=2) + "\n"
        try:
            Path(name).expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {name}: {error.strerror}") from error
        print(f"{name}: {len(self.messages)} messages")

    def _load(self, name: str) -> None:
        from dsv4.encoding.messages import read_messages
        from dsv4.errors import UsageError

        try:
            messages = json.loads(Path(name).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror}", "/load talk.json") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name} is not JSON: {error}") from error
        if not isinstance(messages, list):
            raise UsageError(f"{name} holds no list of messages", "/save writes one")
        read_messages(messages)
        first = messages[0]
        has_system = first["role"] == "system"
        self.system = first["content"] if has_system else None
        self.messages = messages[1:] if has_system else messages
        print(f"{name}: {len(self.messages)} messages")

    def _conversation(self) -> list[dict[str, Any]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages]

    def _ask(self, text: str) -> None:
        """One turn. It is kept as far as it came if it is stopped, and not at all if it fails."""
        import time

        from dsv4.chat.answer import Finish, Logprobs
        from dsv4.chat.request import Request
        from dsv4.cli.console import after_prompt, interruptible
        from dsv4.encoding.events import collect

        asked = any(message["role"] == "user" for message in self.messages)
        question = {"role": "user", "content": text if asked else self._context + text}
        request = Request(
            [*self._conversation(), question],
            effort=self.effort,
            sampling=self._sampling,
            max_tokens=self._max_tokens,
        )
        prepared = self._engine.prepare(request)
        events: list[Event] = []
        finish: Finish | None = None
        start = time.perf_counter()
        with interruptible() as stopped, _Writer(self._style) as writer:
            for event in after_prompt(
                lambda done: self._engine.answer(prepared, cancelled=stopped, progress=done)
            ):
                if isinstance(event, Finish):
                    finish = event
                elif not isinstance(event, Logprobs):
                    events.append(event)
                    writer.show(event)
        seconds = time.perf_counter() - start
        assert finish is not None
        if finish.reason in ("cancelled", "length"):
            why = "stopped" if finish.reason == "cancelled" else "cut at the token limit"
            print(f"({why})", file=sys.stderr)
        reply = collect(events, thinking=prepared.opens_thinking)
        self.messages += [question, reply.message()]
        usage = finish.usage
        self._stats = (
            f"{usage.prompt} prompt tokens, {usage.completion} answered "
            f"({usage.reasoning} of them thinking), {seconds:.1f} s, "
            f"{usage.completion / max(seconds, 1e-9):.1f} tokens/s"
        )


def _read_text(path: Path) -> str:
    """A file's text, which ends in a new line. Raises UsageError."""
    from dsv4.errors import UsageError

    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a UTF-8 text", "convert it first") from error
    return text if text.endswith("\n") else f"{text}\n"


class _Writer:
    """Shows an answer as it comes: thinking dimmed (to standard error where that is no
    terminal), content plain."""

    def __init__(self, style: bool) -> None:
        self._style = style
        self._dim = False

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._set_dim(False)
        print(flush=True)

    def show(self, event: Event) -> None:
        from dsv4.encoding.events import ContentDelta, ReasoningDelta

        if isinstance(event, ReasoningDelta):
            self._set_dim(True)
            print(event.text, end="", flush=True, file=sys.stdout if self._style else sys.stderr)
        elif isinstance(event, ContentDelta):
            self._set_dim(False)
            print(event.text, end="", flush=True)

    def _set_dim(self, dim: bool) -> None:
        if dim == self._dim:
            return
        self._dim = dim
        if self._style:
            print(_DIM if dim else f"{_PLAIN}\n", end="", flush=True)


def _read_line(prompt: str) -> str | None:
    """One input, lines joined that end in a backslash; None at the end of input.

    Raises UsageError if it is not UTF-8.
    """
    from dsv4.errors import UsageError

    lines: list[str] = []
    while True:
        try:
            line = input("" if lines else prompt)
        except EOFError:
            return "\n".join(lines) or None
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D leaves)", file=sys.stderr)
            lines.clear()
            continue
        except UnicodeDecodeError as error:
            raise UsageError("standard input is not UTF-8 text", "convert it first") from error
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])
