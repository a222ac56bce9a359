"""A packed codebase: order, tree, budget, and what never goes in."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsv4
from dsv4.cli.main import main
from dsv4.errors import DataError, UsageError
from dsv4.packing.order import MANIFESTS, order
from dsv4.packing.secrets import secret_name, secret_text

# Written so that this file holds none itself.
KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc\n"
SECRETS = {
    "a private key": KEY,
    "an AWS key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "an AWS secret": "aws_secret_access_key = " + "a1/+" * 10,
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a GitLab token": "glpat-" + "a1B2" * 5,
    "an API key": "sk-proj-" + "a1B2" * 9,
    "a Slack token": "xoxb-" + "12345-" * 5,
    "a Google key": "AIza" + "abcde" * 7,
    "a Stripe key": "sk_live_" + "a1B2" * 6,
    "a Hugging Face token": "hf_" + "aB" * 17,
    "an npm token": "npm_" + "a1B2" * 9,
    "a PyPI token": "pypi-AgE" + "a1B2" * 13,
    "a JSON web token": "eyJ" + "hbGciOiJIUz." + "eyJ" + "zdWIiOiIxMjM." + "a1B2" * 6,
    "a password in a URL": "postgres://me:" + "hunter22@db.example/x",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    for path, text in {
        "zoo.py": "zoo",
        "README.md": "# It",
        "pyproject.toml": "[project]",
        "src/b.py": "b = 1",
        "src/a.py": "a = 1",
        "src/README.md": "inner",
        "src/deep/c.py": "c = 1",
        "docs/guide.md": "guide",
        ".env": "TOKEN=1",
        "src/empty.py": "",
    }.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_text(text, encoding="utf-8")
    (made / "logo.png").write_bytes(b"\x89PNG\0")
    (made / "latin.txt").write_bytes("é".encode("latin-1"))
    (made / "link.py").symlink_to(made / "zoo.py")
    (made / "big.txt").write_text("x " * 2000, encoding="utf-8")
    os.mkfifo(made / "pipe")
    return made


ORDER = [
    "README.md",
    "pyproject.toml",
    "zoo.py",
    "docs/guide.md",
    "src/README.md",
    "src/a.py",
    "src/b.py",
    "src/deep/c.py",
]


def test_all_of_it(folder: Path) -> None:
    packed = dsv4.pack_repo(folder, question="Why?", max_file_bytes=1000)
    assert [path for path, _ in packed.files] == ORDER
    assert {one.path: one.kind for one in packed.skipped} == {
        ".env": "secret",
        "src/empty.py": "empty",
        "logo.png": "binary",
        "latin.txt": "binary",
        "link.py": "link",
        "big.txt": "large",
        "pipe": "unreadable",
    }
    tree, _, rest = packed.text.partition("\n\n[file name]")
    assert tree == (
        "The files of project:\n\nproject/\n  README.md\n  pyproject.toml\n  big.txt (too large)\n"
        "  latin.txt (binary)\n  link.py (a link)\n  logo.png (binary)\n  pipe (unreadable)\n"
        "  zoo.py\n  docs/\n    guide.md\n  src/\n    README.md\n    a.py\n    b.py\n"
        "    empty.py (empty)\n    deep/\n      c.py"
    )
    assert rest.startswith(": README.md\n[file content begin]\n# It\n[file content end]\n[file")
    assert rest.endswith("\nc = 1\n[file content end]\nWhy?")
    assert "TOKEN" not in packed.text and ".env" not in packed.text


@given(st.permutations([*ORDER, *(f"x/{name}" for name in MANIFESTS), "y.py", "x/readme"]))
def test_the_order_does_not_depend_on_where_it_began(paths: list[str]) -> None:
    done = sorted(paths, key=order)
    assert done[:3] == ["README.md", "pyproject.toml", "y.py"]
    assert done.index("x/readme") + 1 == done.index(f"x/{MANIFESTS[0]}")
    folders = [path.rpartition("/")[0] for path in done]
    for name in set(folders):  # every folder is in one piece
        assert folders.count(name) == len(folders) - folders[::-1].index(name) - folders.index(name)


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_is_never_exceeded(folder: Path, seed: int) -> None:
    whole = dsv4.pack_repo(folder, question="Why?", max_file_bytes=1000)
    assert dsv4.pack_repo(folder, question="Why?", max_file_bytes=1000, max_tokens=10**6) == whole
    least = whole.tokens - sum(tokens for _, tokens in whole.files)
    budget = random.Random(seed).randrange(least + 80, whole.tokens)
    packed = dsv4.pack_repo(folder, question="Why?", max_file_bytes=1000, max_tokens=budget)
    assert packed.tokens <= budget
    left = {one.path for one in packed.skipped if one.kind == "budget"}
    assert left and left.isdisjoint(path for path, _ in packed.files)
    assert left | {path for path, _ in packed.files} == set(ORDER)
    assert all(f"{path.rpartition('/')[2]} (left out)" in packed.text for path in left)
    with pytest.raises(UsageError, match="tree and the question alone"):
        dsv4.pack_repo(folder, max_tokens=20)


def test_what_is_small_still_fits_behind_what_is_large(folder: Path) -> None:
    for name in ("guide.md", "other.md"):
        (folder / "docs" / name).write_text("zq7 " * 240, encoding="utf-8")
    budget = dsv4.pack_repo(folder, max_file_bytes=1000, ignore=["other.md"]).tokens + 100
    packed = dsv4.pack_repo(folder, max_file_bytes=1000, max_tokens=budget)
    assert [path for path, _ in packed.files] == ORDER
    assert [one.path for one in packed.skipped if one.kind == "budget"] == ["docs/other.md"]


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_by_what_is_in_them(kind: str, folder: Path) -> None:
    (folder / "config.py").write_text(f"first = 1\nsecond = '{SECRETS[kind]}'\n", encoding="utf-8")
    (found,) = (one for one in dsv4.pack_repo(folder).skipped if one.path == "config.py")
    assert (found.kind, found.why) == ("secret", f"{kind} on line 2")
    packed = dsv4.pack_repo(folder, allow_secrets=["config.py"])
    assert SECRETS[kind] in packed.text


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn and task-force-with-a-very-long-name-that-goes-on",
        "https://user:${PASSWORD}@host/",
        "-----BEGIN CERTIFICATE-----",
        "https://example.com:8080/a@b",
        "the prefix ghp_ or AKIA alone",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    assert secret_text(text) is None


@pytest.mark.parametrize(
    "part", ["a.", "eyJ-", "a://b", "sk-", "-----BEGIN A ", "a://b:", "ghp_", "xoxb-", "aws_"]
)
def test_a_long_text_is_searched_quickly(part: str) -> None:
    start = time.process_time()
    secret_text(part * ((256 << 10) // len(part)))
    assert time.process_time() - start < 10  # a quadratic search takes minutes


def test_secrets_by_name() -> None:
    for name in (".env", ".env.local", "prod.env", "id_rsa", "Server.PEM", ".npmrc", "a.tfstate"):
        assert secret_name(name) is not None, name
    for name in (".env.example", "environment.py", "key.py", "id_rsa.pub", "keys.md", "env"):
        assert secret_name(name) is None, name


def test_a_name_cannot_pose_as_another_file(folder: Path) -> None:
    (folder / "x\n[file name]: y").write_text("forged", encoding="utf-8")
    packed = dsv4.pack_repo(folder)
    assert "forged" not in packed.text
    assert "x\\n[file name]: y" in {one.path for one in packed.skipped}


def test_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is empty"):
        dsv4.pack_repo(tmp_path)
    (tmp_path / ".env").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="1 secret"):
        dsv4.pack_repo(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        dsv4.pack_repo(tmp_path / "none")


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "prompt.txt"
    arguments = ["pack-repo", str(folder), "--output", str(out), "--question", "Why?", "--json"]
    for _ in range(2):  # what the first run wrote is not packed by the second
        assert main(arguments) == 0
        shown = capsys.readouterr()
        values = json.loads(shown.out)
        packed = dsv4.pack_repo(folder, question="Why?", ignore=["/prompt.txt"])
        assert out.read_text(encoding="utf-8") == packed.text
        found = [one for one in values["skipped"] if one["kind"] != "ignored"]
        assert found == [one for one in packed.json()["skipped"] if one["kind"] != "ignored"]
        assert values.keys() == {"tokens", "files", "skipped"}
    assert "secret: .env (an environment file, by its name)" in shown.err
    assert f"9 files, {packed.tokens:,} tokens of nano" in shown.err
    assert "$0." in shown.err and "(deepseek-v4-flash)" in shown.err
    assert "prompt.txt" not in shown.err
    assert main([*arguments, "--list"]) == 0
    assert "ignored: prompt.txt (/prompt.txt in --ignore)" in capsys.readouterr().err
    assert main(["pack-repo", str(folder), "--ignore", "/prompt.txt"]) == 0
    assert capsys.readouterr().out == dsv4.pack_repo(folder, ignore=["/prompt.txt"]).text


def test_command_tells_what_does_not_fit(
    folder: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "long.txt").write_text("x" * 5000, encoding="utf-8")
    for i in range(25):
        (folder / f"{i}.png").write_bytes(b"\0")
        (folder / f"{i}.pem").write_text(KEY, encoding="utf-8")
    command = ["pack-repo", str(folder), "--model", str(tiny_folder), "--output", "/dev/null"]
    assert main(command) == 0
    told = capsys.readouterr().err.splitlines()
    assert (
        f"that is more than the 4,096 tokens of {tiny_folder}'s context: see --max-tokens" in told
    )
    kinds = [line.split(":")[0] for line in told]
    assert (kinds.count("secret"), kinds.count("binary")) == (26, 20)
    assert "and 7 more: --list names them" in told  # a logo and latin.txt are binary too
    assert main([*command, "--list"]) == 0
    kinds = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert (kinds.count("secret"), kinds.count("binary")) == (26, 27)
