"""In which order the files of a codebase are read best: what it is, how it is built, the rest."""

from __future__ import annotations

from pathlib import PurePosixPath

MANIFESTS = """
pyproject.toml setup.cfg setup.py requirements.txt package.json deno.json tsconfig.json Cargo.toml
go.mod CMakeLists.txt Makefile meson.build pom.xml build.gradle build.gradle.kts Gemfile
composer.json mix.exs Package.swift BUILD.bazel MODULE.bazel flake.nix Dockerfile
docker-compose.yml compose.yaml
""".split()
"""Files that say how something is built and what it needs, in this order."""

Key = tuple[int, tuple[str, ...], int, str]


def order(path: str) -> Key:
    """Sorts paths: the README of the whole, its manifests, then folder by folder, each with its
    README and manifests first and its files before its folders."""
    pure = PurePosixPath(path)
    folder = pure.parts[:-1]
    rank = _rank(pure.name)
    return (rank if not folder else _OTHER, folder, rank, pure.name)


_OTHER = 1 + len(MANIFESTS)


def _rank(name: str) -> int:
    if name.lower().split(".")[0] == "readme":
        return 0
    return 1 + MANIFESTS.index(name) if name in MANIFESTS else _OTHER
