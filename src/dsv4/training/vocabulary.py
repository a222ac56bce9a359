"""The tokenizer of a run folder."""

from __future__ import annotations

from pathlib import Path

from dsv4.errors import UsageError
from dsv4.files import replace_text
from dsv4.training.checkpoint import Folder


def take_tokenizer(given: Path, out: Path) -> None:
    """Copy a tokenizer.json to a run folder, in the place of another as long as nothing is trained
    there. Raises UsageError after that."""
    path, text = out / "tokenizer.json", given.read_text(encoding="utf-8")
    if path.is_file():
        if path.read_text(encoding="utf-8") == text:
            return
        if Folder(out / "checkpoints").all():
            raise UsageError(
                f"{out} holds a run with another tokenizer than {given}", "choose another folder"
            )
    replace_text(path, text)
