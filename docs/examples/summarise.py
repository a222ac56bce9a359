"""Summarise every text in a folder: one request each, all of them in one batch.

    python docs/examples/summarise.py FOLDER OUT [OPTIONS OF dsv4 batch]

writes OUT/requests.jsonl, OUT/results.jsonl and OUT/summaries.md. It is `dsv4 batch` that asks:
run it again to go on where it was interrupted, and add `--url`, `--key-file`, `--dry-run` or
`--limit-cost` as you like. What a summary is worth depends on the model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsv4.cli.main import main as dsv4

TEXTS = (".md", ".rst", ".txt")
ASK = "Summarise this document in two sentences."


def documents(folder: Path) -> Iterator[tuple[str, str]]:
    """(path inside the folder, text) of every document."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXTS and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            if text:
                yield path.relative_to(folder).as_posix(), text


def request(name: str, text: str, model: str) -> dict[str, Any]:
    """A line of the batch. Greedy, so that the same documents give the same requests and, from
    the same model, the same summaries."""
    return {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": model,
            "messages": [{"role": "user", "content": f"{text}\n\n{ASK}"}],
            "max_tokens": 200,
            "temperature": 0,
            "thinking": {"type": "disabled"},
        },
    }


def summary(result: dict[str, Any]) -> str:
    """A section of the summaries, also for a request that failed."""
    response, error = result["response"], result["error"]
    if error is None and response["status_code"] == 200:
        text = response["body"]["choices"][0]["message"]["content"].strip()
    else:
        text = f"(failed: {error or response['body']['error']})"
    return f"## {result['custom_id']}\n\n{text}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="nano", help="what the API calls the model")
    arguments, options = parser.parse_known_args()

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    asked, answered = out / "requests.jsonl", out / "results.jsonl"
    lines = [request(*document, arguments.name) for document in documents(arguments.folder)]
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    code = dsv4(["batch", str(asked), str(answered), *options])
    if not answered.is_file():  # a dry run, or a mistake that was told
        return code
    results = [json.loads(line) for line in answered.read_text(encoding="utf-8").splitlines()]
    results.sort(key=lambda result: result["custom_id"])
    text = "\n".join(summary(result) for result in results)
    (out / "summaries.md").write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
