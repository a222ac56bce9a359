"""The C++ kernels as a part of the package: built, left out, found, and described by doctor."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsv4.cli import doctor
from dsv4.cli.main import main
from dsv4.ops.cpu import native

ROOT = Path(__file__).resolve().parents[2]
NAME = "dsv4.ops.cpu._native"
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)


def fails(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> tuple[str, str]:
    """(reason, hint) when importing the compiled module raises `error`."""

    def raising(name: str) -> None:
        assert name == NAME
        raise error

    monkeypatch.setattr(native.importlib, "import_module", raising)
    module, reason, hint = native._load()
    assert module is None
    assert "\n" not in reason + hint
    return reason, hint


def missing() -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {NAME!r}", name=NAME)


def test_there_is_a_module_or_a_reason() -> None:
    assert (native.native is None) == bool(native.reason()) == bool(native.hint())


def test_a_checkout_without_kernels_says_make_native(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    reason, hint = fails(monkeypatch, missing())
    assert reason == "not built in this checkout"
    assert "make native" in hint and "compiler" in hint


def test_an_installation_without_kernels_says_install_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    reason, hint = fails(monkeypatch, missing())
    assert "without a C++ compiler" in reason
    assert "pip install" in hint and "make" not in hint


def test_kernels_of_another_python_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_native.cpython-39-x86_64-linux-gnu.so").touch()
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    reason, _ = fails(monkeypatch, missing())
    assert "another Python" in reason and "cpython-39" in reason


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libstdc++.so.6: version `GLIBCXX_3.4.99'\n not found"),
        ModuleNotFoundError("No module named 'x'", name="x"),
    ],
)
def test_kernels_that_do_not_load_say_what_went_wrong(
    monkeypatch: pytest.MonkeyPatch, error: ImportError
) -> None:
    reason, _ = fails(monkeypatch, error)
    assert "does not load" in reason
    assert str(error).split("\n")[0] in reason


def test_nothing_else_imports_the_compiled_module() -> None:
    named = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"import.*\b_native\b|ops\.cpu\._native", path.read_text(encoding="utf-8"))
    }
    assert named == {"src/dsv4/ops/cpu/native.py"}


def test_doctor_shows_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = SimpleNamespace(
        __file__="/x/_native.so",
        instruction_set=lambda: "avx2",
        instruction_sets=lambda: ["avx512", "avx2", "generic"],
        thread_count=lambda: 3,
    )
    monkeypatch.setattr(native, "native", fake)
    monkeypatch.setattr(native, "reason", str)
    monkeypatch.setattr(native, "hint", str)
    assert doctor.kernels() == {
        "instruction_set": "avx2",
        "available": ["avx512", "avx2", "generic"],
        "threads": 3,
        "file": "/x/_native.so",
        "missing": None,
        "hint": None,
    }
    assert main(["doctor"]) == 0
    assert "avx2, 3 threads, also: avx512, generic" in capsys.readouterr().out


def test_doctor_shows_why_there_are_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "native", None)
    monkeypatch.setattr(native, "reason", lambda: "not [built]")
    monkeypatch.setattr(native, "hint", lambda: "build it")
    assert main(["doctor", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["native_kernels"]
    assert (shown["missing"], shown["hint"]) == ("not [built]", "build it")
    assert shown["instruction_set"] is shown["available"] is shown["threads"] is None
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "none: not [built]" in out and "hint: build it" in out


@pytest.mark.slow
@needs_compiler
def test_a_wheel_holds_kernels_and_model(tmp_path: Path) -> None:
    wheel, names = build_wheel(tmp_path)
    assert [n for n in names if "_native" in n and n.endswith((".so", ".pyd"))]
    assert "none-any" not in wheel.name
    done = run_installed(
        wheel, tmp_path, "from dsv4.ops.cpu import native; print(native.native.__file__)"
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


@pytest.mark.slow
def test_a_wheel_without_a_compiler_is_pure_python(tmp_path: Path) -> None:
    wheel, names = build_wheel(tmp_path, CXX="/bin/false")
    assert wheel.name.endswith("py3-none-any.whl")
    assert not [n for n in names if "_native" in n]
    done = run_installed(
        wheel, tmp_path, "from dsv4.ops.cpu import native; print(native.native, native.reason())"
    )
    assert done.stdout.strip() == "None installed without a C++ compiler", done.stderr


@pytest.mark.slow
def test_an_editable_install_points_at_the_sources(tmp_path: Path) -> None:
    python = fresh_python(tmp_path)
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", str(ROOT)]
    subprocess.run(install, check=True)
    done = subprocess.run(
        [python, "-c", "import dsv4.version as v; print(v.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(ROOT / "src" / "dsv4" / "version.py")


@pytest.mark.slow
@needs_compiler
def test_make_native_builds_and_cleans_up(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(
        ROOT,
        clone,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "models", "*.so", ".*_cache"),
    )
    script = [str(clone / "tools" / "native.sh"), sys.executable]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
    kernels = list((clone / "src/dsv4/ops/cpu").glob("_native.*.so"))
    assert len(kernels) == 1

    # A machine without a compiler: the old module must not outlive its sources.
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("sh", "dirname", "rm"):
        (bare / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(script, env={"PATH": str(bare)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: no C++ compiler"
    assert not kernels[0].exists()


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
@pytest.mark.parametrize("kind", ["native", "neon"])
def test_kernels_pass_their_own_test(kind: str) -> None:
    tools = ("aarch64-linux-gnu-g++", "qemu-aarch64-static")
    if kind == "neon" and not all(shutil.which(tool) for tool in tools):
        pytest.skip("no cross compiler or no emulator")
    script = [str(ROOT / "tools" / "selftest.sh"), kind]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert ("neon " in done.stdout) == (kind == "neon")


def build_wheel(folder: Path, **environment: str) -> tuple[Path, list[str]]:
    """Build the wheel as pip does for an install; (path, names inside)."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, env={**os.environ, **environment})
    (wheel,) = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "dsv4/bundled/nano/config.json" in names
    assert {"dsv4/server/web/index.html", "dsv4/pricing/prices.toml"} <= set(names)
    assert not [n for n in names if n.endswith(".pyc") or n.startswith(("csrc", "tests"))]
    return wheel, names


def run_installed(wheel: Path, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with the wheel's contents first on the path, away from the checkout."""
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )


def fresh_python(folder: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    return str(folder / "venv" / "bin" / "python")
