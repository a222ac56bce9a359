"""Cut OpenAI's OpenAPI document down to the paths this server has, for the tests.

    python tools/openai_document.py openapi.yaml tests/data/openai/openapi.json.gz

The document is published in github.com/openai/openai-openapi. Needs PyYAML.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATHS = {
    "/chat/completions": ("post",),
    "/completions": ("post",),
    "/responses": ("post",),
    "/models": ("get",),
    "/models/{model}": ("get",),
}
WORDS = ("description", "x-oaiMeta", "example", "examples", "title")
"""Keys that tests have no use for. `title` and the like may be names of properties too."""

_PREFIX = "#/components/"


def prune(document: dict[str, Any]) -> dict[str, Any]:
    """The document of PATHS alone, with the components they need."""
    paths = {
        path: {method: _plain(document["paths"][path][method]) for method in methods}
        for path, methods in PATHS.items()
    }
    components: dict[str, dict[str, Any]] = {}
    waiting = list(_references(paths))
    while waiting:
        kind, name = waiting.pop().removeprefix(_PREFIX).split("/")
        if name not in components.setdefault(kind, {}):
            components[kind][name] = _plain(document["components"][kind][name])
            waiting += _references(components[kind][name])
    head = {key: document[key] for key in ("openapi", "info")}
    return {**head, "paths": paths, "components": components}


def _plain(value: Any, names: bool = False) -> Any:
    """A value without its words; `names`: the keys are names of properties."""
    if isinstance(value, dict):
        return {
            key: _plain(part, key == "properties" and not names)
            for key, part in value.items()
            if names or key not in WORDS
        }
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def main(source: str, target: str) -> None:
    import yaml  # type: ignore[import-untyped]

    with open(source, encoding="utf-8") as file:
        pruned = prune(yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    text = json.dumps(pruned, ensure_ascii=False, sort_keys=True, default=str)
    Path(target).write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
