"""What code in the sandbox can do, and above all what it cannot."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dsv4.errors import UsageError
from dsv4.evaluation.sandbox import confine
from dsv4.evaluation.sandbox import run as sandbox
from dsv4.evaluation.sandbox.run import Limits, run

SECOND = Limits(seconds=1)

pytestmark = pytest.mark.usefixtures("confined")


@pytest.mark.parametrize(
    ("code", "end", "output"),
    [
        ("import sys; print(sys.stdin.read().upper(), __name__)", "done", "ABC answer\n"),
        ("import sys\nprint(1)\nsys.exit(0)", "exit", "1\n"),
        ("print(1)\nexit()", "exit", "1\n"),
        ("import os; os._exit(0)", "exit", ""),
        ("import sys; sys.stderr.write('said'); print('é')", "done", "é\n"),
        ("assert 1 == 2", "error", ""),
        ("this is no Python", "error", ""),
        ("import os; os.abort()", "error", ""),
        ("import threading as t; x = t.Thread(target=print); x.start(); x.join()", "done", "\n"),
        ("import asyncio; print(asyncio.run(asyncio.sleep(0, 5)))", "done", "5\n"),
    ],
)
def test_programs_run(code: str, end: str, output: str) -> None:
    outcome = run(code, stdin="abc", name="answer")
    assert (outcome.end, outcome.output) == (end, output)


def test_a_secret_hash_changes_nothing_between_runs() -> None:
    assert run("print(hash('a'))").output == run("print(hash('a'))").output


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill({parent}, 0)",
        "import os; os.kill(-1, 0)",
        "import signal; signal.pidfd_send_signal(0, 0)",
        "open('{secret}').read()",
        "open('/proc/self/environ').read()",
        "import os; os.listdir('{folder}')",
        "import os; os.listdir('/proc')",
        "open('{folder}/new', 'w')",
        "open('{secret}', 'a')",
        "import os; os.unlink('{secret}')",
        "import os; os.rename('{secret}', '{folder}/moved')",
        "import os; os.mkdir('{folder}/new')",
        "import os; os.symlink('{secret}', '{folder}/new')",
        "import os; os.chmod('{secret}', 0o777)",
        "import os; os.utime('{secret}')",
        "import os; os.truncate('{secret}', 0)",
        "import os; os.memfd_create('x')",
        "import tempfile; tempfile.NamedTemporaryFile()",
    ],
)
def test_nothing_outside_can_be_reached(code: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key", encoding="utf-8")
    os.utime(secret, (1, 1))
    code = code.format(secret=secret, folder=tmp_path, parent=os.getpid())
    outcome = run(f"try:\n    {code}\nexcept OSError as error:\n    print(error.errno)")
    assert (outcome.end, outcome.output) in {("done", "1\n"), ("done", "13\n"), ("done", "2\n")}
    assert (outcome.output == "2\n") <= ("tempfile" in code)  # no folder can be used
    assert secret.read_text(encoding="utf-8") == "key"
    assert secret.stat().st_mtime == 1 and secret.stat().st_mode & 0o777 != 0o777
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_server_next_door_hears_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        port = listener.getsockname()[1]
        call = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}', timeout=1)"
        assert run(call).end == "error"
        with pytest.raises(TimeoutError):
            listener.accept()
        # Not by system calls that have no Python function, either.
        raw = "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.syscall({}, 0, 0, 0))"
        assert run(raw.format(425)).output == "-1\n"  # io_uring
        assert run(raw.format(confine.LAST_CALL + 1)).output == "-1\n"
        assert run(raw.format(0x40000000 + 41)).output == "-1\n"  # x32's socket


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("while True: pass", "time"),
        ("import time; time.sleep(60)", "time"),
        ("import os, time; os.close(1); os.close(2); time.sleep(60)", "time"),
        ("x = 'a' * (2 << 30)", "memory"),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
    ],
)
def test_limits_hold(code: str, end: str) -> None:
    began = time.monotonic()
    assert run(code, limits=SECOND).end == end
    assert time.monotonic() - began < 5


def test_limits_cannot_be_raised() -> None:
    code = (
        "import resource as r\nprint(r.getrlimit(r.RLIMIT_AS))\nr.setrlimit(r.RLIMIT_AS, (-1, -1))"
    )
    outcome = run(code)
    assert (outcome.end, outcome.output) == ("error", f"({1 << 30}, {1 << 30})\n")


def test_secrets_of_the_environment_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "secret" not in run("import os; print(dict(os.environ))").output


def test_more_is_given_and_said_than_a_pipe_holds() -> None:
    text = "x" * 300_000
    assert run("import sys; print(sys.stdin.read())", stdin=text).output == text + "\n"
    assert run("pass", stdin=text).end == "done"  # nobody reads it


def test_an_interrupt_leaves_no_program_behind() -> None:
    def interrupt() -> None:
        time.sleep(0.4)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(60)", limits=Limits(seconds=60))
    assert time.monotonic() - began < 5


def test_nothing_runs_where_it_cannot_be_confined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="darwin"):
        run("pass")


def test_a_kernel_without_landlock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inner program with a Landlock call that no kernel has."""
    source = Path(confine.__file__).read_text(encoding="utf-8")
    broken = tmp_path / "confine.py"
    broken.write_text(source.replace("LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444",
                                     "LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 9999"),
                      encoding="utf-8")  # fmt: skip
    monkeypatch.setattr(sandbox.confine, "__file__", str(broken))
    with pytest.raises(UsageError, match="Landlock: Function not implemented"):
        run("print('ran')")


def test_a_program_ends_without_anybody_watching() -> None:
    """The limit of processor time is its own: what started it may be gone."""
    task = {"code": "while True: pass", "name": "x", "seconds": 1, "memory": 1 << 30, "token": "t"}
    data = json.dumps(task).encode()
    command = [sys.executable, "-P", "-S", confine.__file__]
    given = struct.pack("<Q", len(data)) + data
    ended = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)
    assert ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def _verdict(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel would say to a system call: a seccomp program, interpreted."""
    data = struct.pack("<IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("<HBBI", program))
    at = loaded = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x20:
            loaded = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return int(value)
        else:
            met = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            at += yes if met else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_both_processors(machine: str) -> None:
    audit, arm, pid = confine.AUDIT[machine], int(machine == "aarch64"), 77
    program = confine._filter(audit, arm, pid)
    denied, absent = confine.ERRNO | errno.EPERM, confine.ERRNO | errno.ENOSYS

    def says(number: int, *arguments: int) -> int:
        return _verdict(program, audit, number, *arguments)

    for name, numbers in confine.DENIED.items():
        number = numbers[arm]
        assert number is None or says(number) == denied, name
    reads, writes = ((0, 1), (63, 64))[arm]
    assert says(reads) == says(writes) == confine.ALLOW
    assert says(confine.CLONE[arm], 0x11) == denied  # a process
    assert says(confine.CLONE[arm], 0x3D0F00) == confine.ALLOW  # a thread
    assert says(confine.CLONE3[arm]) == absent
    assert says(confine.KILL_CALL[arm], pid) == says(confine.TGKILL[arm], pid) == confine.ALLOW
    assert says(confine.KILL_CALL[arm], 78) == says(confine.TGKILL[arm], 78) == denied
    assert says(confine.PRLIMIT[arm], 0, 7, 0) == confine.ALLOW
    assert says(confine.PRLIMIT[arm], 0, 7, 4096) == denied
    for number in (confine.LAST_CALL + 1, 0x40000000 + 41, 0xFFFFFFFF):
        assert says(number) == absent
    assert _verdict(program, audit ^ 1, reads) == confine.KILL
