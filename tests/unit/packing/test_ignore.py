"""What is ignored: exactly what git ignores, and our defaults."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsv4.packing.pattern import exactly
from dsv4.packing.walk import File, Skipped, walk

NAMES = st.sampled_from(["a", "b", "ab", "b.txt"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATTERNS = st.one_of(
    st.sampled_from(
        [
            *("*", "!*/", "!*.txt", "*.txt", "/a", "a/", "!a/", "a/*", "!a/b", "**/b", "a/**"),
            *("a/**/b", "# b", "", "!", r"\!a", "[ab]", "?", "b.txt ", "/*", "!/a/", "a*/", "!ab"),
        ]
    ),
    PATHS,
    PATHS.map(lambda path: f"!/{path}"),
)
FILES = st.sets(PATHS, min_size=4, max_size=12)
RULES = st.dictionaries(
    st.sampled_from(["", "", "a", "ab", "a/b"]),
    st.lists(PATTERNS, min_size=1, max_size=4),
    min_size=1,
    max_size=2,
)


def texts(folder: Path, **options: list[str]) -> set[str]:
    found = walk(folder, **options)  # type: ignore[arg-type]
    return {one.path for one in found if isinstance(one, File)}


def write(folder: Path, path: str, text: str = "x") -> None:
    """A file, unless a file stands where it needs a folder, or the reverse."""
    file = folder / path
    if file.is_dir() or any(above.is_file() for above in file.parents):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@settings(max_examples=60, deadline=None)
@given(FILES, RULES)
@example({"a/b.txt/a"}, {"": ["*", "!a/"]})
@example({"b/a", "a/b", "ab/a/b"}, {"": ["a/"]})
@example({"a/a", "a/b/a", "b/a"}, {"": ["a/**", "!a/b/", "!a/b/a"]})
@example({"a/b", "a/a/b", "a/a/a/b", "b"}, {"": ["a/**/b"]})
@example({"a/b", "b/a", "b/b"}, {"": ["/b", "!/b/a"], "a": ["b"]})
def test_the_same_files_as_git(files: set[str], rules: dict[str, list[str]]) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for path in sorted(files):
            write(folder, path)
        for base, lines in rules.items():
            write(folder, f"{base}/.gitignore".lstrip("/"), "\n".join(lines) + "\n# rules\n")
        git = ["git", "-C", made, "-c", "core.excludesFile=/dev/null"]
        subprocess.run([*git, "init", "-q"], check=True)
        listed = subprocess.run(
            [*git, "ls-files", "-z", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert texts(folder) == set(listed.stdout.split("\0")) - {""}
        for inner in ("a", "a/b"):
            # A folder inside; one that is ignored as a whole is packed all the same.
            if (folder / inner).is_dir() and not ignored(folder, inner):
                begins = f"{inner}/"
                theirs = {p for p in listed.stdout.split("\0") if p.startswith(begins)}
                assert texts(folder / inner) == {p.removeprefix(begins) for p in theirs}


def ignored(folder: Path, path: str) -> bool:
    return any(
        isinstance(one, Skipped) and one.kind == "ignored" and f"{path}/".startswith(one.path)
        for one in walk(folder)
    )


def test_defaults_options_and_reasons(tmp_path: Path) -> None:
    for path in ("a.py", "uv.lock", "node_modules/x.js", "lib/a.min.js", "dist/b.py", "notes.md"):
        write(tmp_path, path)
    write(tmp_path, ".gitignore", "dist/\n")
    assert texts(tmp_path) == {".gitignore", "a.py", "notes.md"}
    why = {one.path: one.why for one in walk(tmp_path) if isinstance(one, Skipped)}
    assert why == {
        "uv.lock": "uv.lock in the defaults",
        "node_modules/": "node_modules/ in the defaults",
        "lib/a.min.js": "*.min.js in the defaults",
        "dist/": "dist/ in .gitignore",
    }
    more = ["*.md", "!dist/", "!uv.lock"]
    assert texts(tmp_path, more_ignored=more) == {".gitignore", "a.py", "dist/b.py", "uv.lock"}


def test_version_control_is_never_packed(tmp_path: Path) -> None:
    for path in ("a.py", ".git/config", "inner/.git", "inner/node_modules/b.py"):
        write(tmp_path, path)
    write(tmp_path, ".gitignore", "!*\n!*/\n")
    assert texts(tmp_path) == {".gitignore", "a.py"}
    everything = [".gitignore", "a.py", "inner/node_modules/b.py"]
    assert texts(tmp_path, more_ignored=["!*", "!*/"]) == set(everything)


def test_an_ignored_folder_is_packed_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    write(tmp_path, ".gitignore", "build/\n*.log\n")
    write(tmp_path, "build/a.py")
    write(tmp_path, "src/a.log")
    write(tmp_path, "src/a.py")
    assert texts(tmp_path / "build") == {"a.py"}
    assert texts(tmp_path / "src") == {"a.py"}
    assert texts(tmp_path / "src", more_ignored=["/a.py", "!a.log"]) == {"a.log"}


@pytest.mark.parametrize("name", ["a.txt", "a b", "#a", "!a", "[ab]", "a*", "?", "back\\slash"])
def test_the_pattern_of_one_path(tmp_path: Path, name: str) -> None:
    for path in (name, "other", "inner/" + name):
        write(tmp_path, path)
    assert texts(tmp_path, more_ignored=[exactly(name)]) == {"other", f"inner/{name}"}


def test_a_line_that_is_no_pattern_harms_no_other(tmp_path: Path) -> None:
    for path in ("a", "b"):
        write(tmp_path, path)
    write(tmp_path, ".gitignore", "!\na\n")
    assert texts(tmp_path) == {".gitignore", "b"}
