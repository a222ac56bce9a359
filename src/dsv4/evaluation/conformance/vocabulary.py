"""Whether a folder's tokenizer belongs to its model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dsv4.checkpoint.folder import Reader
from dsv4.checkpoint.layout import TOKEN_MAP
from dsv4.checkpoint.plan import Plan
from dsv4.encoding.control import RELEASED_IDS
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import EncodingError
from dsv4.evaluation.conformance.finding import Finding

RELEASED_VOCABULARY = 129280
FILE = "tokenizer.json"


def digest(folder: Path) -> str | None:
    """SHA-256 of the tokenizer file, None without one: what two folders can be compared by."""
    path = folder / FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def check_vocabulary(plan: Plan) -> list[Finding]:
    """What is wrong with the tokenizer of a folder: none, ids out of range, special ids, and the
    token map of an Engram."""
    if not (plan.folder / FILE).is_file():
        needed = plan.lacks_token_map
        what = "there is no tokenizer.json" + (", from which the Engram's rows follow" * needed)
        return [
            Finding(what, FILE, "error" if needed else "warning", hint="copy it from the release")
        ]
    try:
        tokenizer = Tokenizer.from_folder(plan.folder)
    except EncodingError as error:
        return [Finding(str(error), FILE, hint=error.hint)]
    found = []
    vocabulary = plan.config.vocab_size
    if tokenizer.vocab_size > vocabulary:
        what = (
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, the model {vocabulary} rows"
        )
        found.append(Finding(what, FILE, hint="the tokenizer is of another model"))
    found += _special(plan.folder, tokenizer, vocabulary)
    found += _map(plan, tokenizer)
    return found


def _special(folder: Path, tokenizer: Tokenizer, vocabulary: int) -> list[Finding]:
    """Control tokens where the release has them, and the same ends in every file."""
    found = []
    if vocabulary == RELEASED_VOCABULARY:
        for token, index in RELEASED_IDS.items():
            try:
                actual: int | None = tokenizer.control_id(token)
            except EncodingError:
                actual = None
            if actual != index:
                what = (
                    f"{token} is {'missing' if actual is None else f'id {actual}'}, not id {index}"
                )
                found.append(Finding(what, FILE, hint="use the tokenizer.json of the release"))
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for key, index in ends.items():
            said = values.get(key)
            listed = said if isinstance(said, list) else [said]
            if said is not None and index not in listed:
                what = f"{key} is {said}, the tokenizer's is {index}"
                found.append(Finding(what, name, hint="answers would not end, or begin wrongly"))
    return found


def _map(plan: Plan, tokenizer: Tokenizer) -> list[Finding]:
    """Whether canonical ids are the tokenizer's: with others every n-gram finds another's row."""
    engram = plan.config.engram
    if engram is None or tokenizer.vocab_size > plan.config.vocab_size:
        return []
    expected = tokenizer.canonical_ids(plan.config.vocab_size)
    different = len(set(expected))
    if different != engram.compressed_vocab_size:
        what = (
            f"the tokenizer has {different} canonical ids, "
            f"engram_compressed_vocab_size is {engram.compressed_vocab_size}"
        )
        return [
            Finding(what, FILE, hint="the tokenizer is not the one the Engram was trained with")
        ]
    stored = next((s for s in plan.sources if s.parameter.name == TOKEN_MAP), None)
    if stored is None:
        return []
    wrong = sum(
        a != b for a, b in zip(Reader().tensor(stored.data).tolist(), expected, strict=True)
    )
    if not wrong:
        return []
    what = f"{wrong} of {len(expected)} canonical ids are not those of the tokenizer"
    return [Finding(what, TOKEN_MAP, "warning", hint="the map or the tokenizer was replaced")]
