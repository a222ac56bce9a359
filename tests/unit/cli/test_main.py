"""The command line's frame: help, errors, exit codes, speed."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsv4.cli import main as cli
from dsv4.errors import CheckpointError, ConfigError, DataError, UsageError


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"\n  {name} " in text


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_that_opens_with_its_summary(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert cli.COMMANDS[name] in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from dsv4 import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"dsv4 {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["inspect"],
        ["inspect", "flash", "--context", "many"],
        ["inspect", "flash", "--context", "0"],
        ["inspect", "flash", "extra"],
        ["serve", "nano", "--port", "70000"],
        ["synth", "out"],
        ["synth", "out", "--preset", "tiny", "--seed", "-1"],
        ["synth", "out", "--preset", "tiny", "--seed", str(1 << 63)],
        ["inspect", "flash", "--context", "9" * 26],
        ["export", "nano", "out", "--layout", "zip"],
    ],
)
def test_bad_command_lines(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    error, hint = shown.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: see dsv4") and hint.endswith("--help")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no", "do this"), 2),
        (ConfigError("no", "do this"), 3),
        (CheckpointError("no", "do this"), 4),
        (DataError("no", "do this"), 7),
    ],
)
def test_our_errors_become_two_lines_and_a_code(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _failing(monkeypatch, error)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == "error: no\nhint: do this\n"


def test_unexpected_errors_become_one_line_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _failing(monkeypatch, RuntimeError("first\nsecond"))
    assert cli.main(["doctor"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: unexpected RuntimeError: first second"
    assert "--debug" in hint


@pytest.mark.parametrize("arguments", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_shows_the_traceback(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _failing(monkeypatch, RuntimeError("boom"))
    assert cli.main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _failing(monkeypatch, KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail() -> dict[str, Any]:
        raise error

    monkeypatch.setattr("dsv4.cli.doctor.examine", fail)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dsv4", *arguments], capture_output=True, text=True, timeout=60
    )


def test_an_effort_that_is_unknown_fails_before_loading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in (["chat", "no-such-model"], ["generate", "no-such-model", "x", "--chat"]):
        assert cli.main([*command, "--thinking", "bogus"]) == 2
        assert "effort 'bogus' is unknown" in capsys.readouterr().err


def test_as_a_process() -> None:
    done = command("inspect", "no-such-model")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error: no model called 'no-such-model'\nhint: ")


def test_output_into_a_closed_pipe_is_no_error() -> None:
    line = f"{sys.executable} -m dsv4 inspect tiny | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("tiny: 5 layers")
    assert done.stderr == ""
    assert done.returncode == 0


def test_help_is_fast() -> None:
    """Under 0.3 s. Processor time, because other work on the machine stretches the clock."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert command("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dsv4.cli.main import main; main(['--help']);"
        "print(*sorted({'torch', 'numpy', 'fastapi', 'tokenizers', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == ""


def test_import_of_the_package_costs_no_torch() -> None:
    code = "import sys, dsv4; dsv4.ModelConfig; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


def test_names_of_the_package() -> None:
    import dsv4

    for name in dsv4.__all__:
        assert getattr(dsv4, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = dsv4.nonsense
    assert Path(dsv4.__file__).name == "__init__.py"
