"""The terminal conversation, driven through its input lines."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsv4.chat.engine import Engine
from dsv4.cli.chat import HELP, Session
from dsv4.cli.main import main
from dsv4.engine.sampler import GREEDY

Build = Callable[..., Engine]
Talk = Callable[..., tuple[Session, str, str]]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """talk(engine, lines...) -> (session, standard output, standard error)."""

    def run(engine: Engine, *lines: str, effort: str = "none") -> tuple[Session, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        session = Session(engine, GREEDY, effort, None, None)
        session.run()
        shown = capsys.readouterr()
        return session, shown.out, shown.err

    return run


def test_answers_join_the_conversation(scripted: Build, talk: Talk) -> None:
    session, out, _ = talk(scripted("Hello."), "hi", "", "again")
    assert out == "Hello.\nHello.\n"
    assert session.messages == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "Hello."},
    ]


def test_thinking_goes_to_standard_error_without_a_terminal(scripted: Build, talk: Talk) -> None:
    session, out, err = talk(scripted("hm</think>42"), "what?", effort="high")
    assert (out, err) == ("42\n", "hm")
    assert session.messages[-1]["reasoning_content"] == "hm"


def test_thinking_is_dimmed_on_a_terminal(
    scripted: Build, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    _, out, _ = talk(scripted("hm</think>42"), "what?", effort="high")
    assert out == "\x1b[2mhm\x1b[0m\n42\n"


def test_a_line_can_go_on(scripted: Build, talk: Talk) -> None:
    session, _, _ = talk(scripted("x"), "one\\", "two")
    assert session.messages[0]["content"] == "one\ntwo"


def test_commands(scripted: Build, talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    session, out, err = talk(
        scripted("Yes."),
        "/help",
        "/system Be brief.",
        "/think max",
        "/think",
        "/think enormous",
        "/nonsense",
        "/stats",
        "/think none",
        "hi",
        f"/save {file}",
        "/undo",
        "/undo",
        "/system",
        "/clear",
        "/save",
        f"/load {file}",
        "/exit",
        "never read",
    )
    assert HELP in out
    assert "thinking: max\nthinking: max" in out
    assert "effort 'enormous' is unknown" in err and "there is no command /nonsense" in err
    assert "the last question is taken back\nthere is nothing to take back" in out
    assert "/save needs a file name" in err
    assert session.system == "Be brief."
    assert [message["content"] for message in session.messages] == ["hi", "Yes."]
    assert json.loads(file.read_text())[0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("content", ["{", "[]", '[{"role": "nobody"}]', "7"])
def test_loading_what_is_no_conversation(
    scripted: Build, talk: Talk, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "talk.json"
    file.write_text(content)
    session, _, err = talk(scripted("x"), f"/load {file}", "/load /no/where")
    assert err.count("error: ") == 2
    assert session.messages == []


def test_the_system_message_is_sent(scripted: Build, talk: Talk) -> None:
    engine = scripted("x")
    seen: list[Any] = []
    prepare = engine.prepare
    engine.prepare = lambda request: (seen.append(request), prepare(request))[1]  # type: ignore[method-assign]
    talk(engine, "/system Be brief.", "hi")
    assert seen[0].messages[0] == {"role": "system", "content": "Be brief."}


def test_ctrl_c_stops_the_answer_and_not_the_program(scripted: Build, talk: Talk) -> None:
    engine = scripted("abcdefgh")
    answer = engine.answer

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        for count, event in enumerate(answer(*args, **kwargs)):
            if count == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    engine.answer = interrupted  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    session, out, err = talk(engine, "go", "/stats")
    assert signal.getsignal(signal.SIGINT) is before
    assert out.startswith("abc\n") and "tokens/s" in out
    assert "(stopped)" in err
    assert session.messages[-1]["content"] == "abc"


def test_a_question_that_fails_is_not_kept(scripted: Build, talk: Talk) -> None:
    session, _, err = talk(scripted("x"), "y" * 5000)
    assert "context" in err
    assert session.messages == []


def test_the_command(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/stats\n"))
    assert main(["chat", str(tiny_folder), "--seed", "1", "--max-tokens", "4"]) == 0
    assert "4 answered" in capsys.readouterr().out


def test_a_context_goes_with_the_first_question(
    scripted: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "context.txt"
    file.write_text("the files", encoding="utf-8")
    monkeypatch.setattr("dsv4.cli.loading.load", lambda *_: scripted("Hello.").model)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"one\ntwo\n/clear\nthree\n/save {tmp_path}/x\n"))
    asked: list[str] = []
    prepare = Engine.prepare

    def watched(engine: Engine, request: Any) -> Any:
        asked.append(request.messages[-1]["content"])
        return prepare(engine, request)

    monkeypatch.setattr(Engine, "prepare", watched)
    assert main(["chat", "--context-file", str(file), "--thinking", "none"]) == 0
    assert asked == ["the files\none", "two", "the files\nthree"]
    saved = json.loads((tmp_path / "x").read_text(encoding="utf-8"))
    assert saved[0] == {"role": "user", "content": "the files\nthree"}


def test_a_context_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--context-file", str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err
    (tmp_path / "latin").write_bytes(b"\xe9")
    assert main(["chat", "--context-file", str(tmp_path / "latin")]) == 2
    assert "is not a UTF-8 text" in capsys.readouterr().err
