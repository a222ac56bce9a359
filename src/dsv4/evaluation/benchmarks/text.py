"""Bits per byte of held-out text, of the model and of n-gram baselines.

A bit per byte is -log2 p of all that a model is to write, the end of the text included, over its
UTF-8 bytes: of a text all of it, of an exchange the response given the prompt. The tokens are the
model's own; since whole texts are compared, models with different vocabularies can be too.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from dsv4.data.corpora import STANDARD_LIBRARY, Source, read, read_records
from dsv4.data.documents import Conversation, Document, Text, encode_document, texts
from dsv4.data.records import to_documents
from dsv4.errors import DataError, UsageError
from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Benchmark, Row, Settings
from dsv4.evaluation.benchmarks.python import functions
from dsv4.evaluation.local import LocalModel
from dsv4.evaluation.ngrams import NgramModel, NgramTarget
from dsv4.evaluation.question import Answer, Item, Likelihood, Measures, Scored, Target
from dsv4.evaluation.records import Record

DOCUMENTS = 60
"""Documents of a group that are scored, if they are short."""

BYTES = 96 << 10
"""Of a group; what comes after that is left out, so that books do not take an hour."""

SAMPLE = 8 << 20
"""Bytes of corpora that the baselines are trained on, in equal parts of every file."""

_KEYS = {"text", "prompt", "messages", "facts", "definition"}
"""Of records that are documents; corpora may have other files beside them."""


def items(settings: Settings, target: Target) -> Iterator[Item]:
    """Held-out documents: of every `heldout_NAME.jsonl` (or `.jsonl.xz`), and functions of the
    standard library. Records with a kind are one group per kind."""
    assert settings.data is not None
    paths = sorted(settings.data.glob("heldout_*.jsonl*"))
    if not paths:
        raise DataError(
            f"no heldout_*.jsonl or .jsonl.xz in {settings.data}",
            "give the folder of held-out texts as --data",
        )
    corpora: dict[str, list[Document]] = {}
    for path in paths:
        name = path.name.removeprefix("heldout_").split(".")[0]
        for record in read_records(path):
            group = f"{name}: {record['kind']}" if "kind" in record else name
            corpora.setdefault(group, []).extend(to_documents(record, path))
    corpora[f"Python {platform.python_version()} functions"] = list(functions())
    for group, documents in corpora.items():
        size = 0
        for i, document in enumerate(documents[: settings.count(DOCUMENTS)]):
            if size < BYTES:
                yield _item(document, f"{group}/{i}", group)
            size += len(_written(document).encode())


def _item(document: Document, id: str, group: str) -> Item:
    size = len(_written(document).encode())

    def grade(answer: Answer) -> Measures:
        assert isinstance(answer, Scored)
        return {"bits": -answer.logprobs[0] / math.log(2), "bytes": float(size)}

    return Item(id, group, Likelihood((document,)), grade)


def _written(document: Document) -> str:
    """What a model is to write of a held-out document."""
    if isinstance(document, Text):
        return document.text
    if isinstance(document, Conversation) and len(document.messages) == 2:
        return document.messages[1].content
    raise DataError("held-out records are texts, or one prompt and its response")


def rows(records: Sequence[Record]) -> list[Row]:
    """Bits per byte, and nats per token, of every group, and of groups that stand for kinds of one
    corpus together."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        corpus, colon, _ = record.group.partition(": ")
        if colon:
            groups.setdefault(f"{corpus} (all)", []).append(record)
        groups.setdefault(record.group, []).append(record)
    found = []
    for name, group in groups.items():
        part, size = ": " in name, len(group)
        bits, sizes = ([r.measures[key] for r in group] for key in ("bits", "bytes"))
        found.append(Row.of(name, "bits per byte", size, intervals.ratio(bits, sizes), detail=part))
        nats = [value * math.log(2) for value in bits]
        loss = intervals.ratio(nats, [r.tokens for r in group])
        found.append(Row.of(name, "nats per token", size, loss, detail=part))
    return found


def baseline(length: int) -> Benchmark:
    """The same documents, predicted by an n-gram model of the training corpora."""

    def answered_by(settings: Settings, target: Target) -> Target:
        if not isinstance(target, LocalModel):
            raise UsageError("baselines need the tokenizer of a model folder")
        assert settings.corpora is not None
        tokenizer = target.model.tokenizer
        sample = list(_sample(settings.corpora))
        digest = hashlib.blake2b(digest_size=8)
        ids = []
        for document in sample:
            ids.append(encode_document(tokenizer, document).ids)
            digest.update(repr(ids[-1]).encode())
        model = NgramModel.train(ids, length, tokenizer.vocab_size)
        return NgramTarget(f"{length}-gram", model, tokenizer, digest.hexdigest())

    name = {2: "bigram"}.get(length, f"{length}gram")
    return Benchmark(
        f"text-{name}",
        f"Held-out text, {name} baseline",
        f"Interpolated Kneser-Ney over the model's tokens, trained on {SAMPLE >> 20} MB.",
        items,
        rows,
        needs="both",
        answered_by=answered_by,
        likelihoods=True,
    )


def _sample(corpora: Path) -> Iterator[Document]:
    """Documents of every corpus file and of the standard library, a few megabytes in all."""
    paths = sorted(path for end in ("jsonl", "jsonl.xz") for path in corpora.rglob(f"*.{end}"))
    if not paths:
        raise DataError(f"no .jsonl or .jsonl.xz below {corpora}", "give a folder as --corpora")
    sources = [
        Source("sample", str(path.relative_to(corpora)), 1, "", split="train")
        for path in paths
        if _KEYS & next(read_records(path), {}).keys()
    ]
    sources.append(Source("python", STANDARD_LIBRARY, 1, "PSF-2.0", split="train"))
    for source in sources:
        room = SAMPLE // len(sources)
        for document in read(source, corpora):
            room -= len("".join(texts(document)).encode())
            if room < 0:
                break
            yield document


TEXT = Benchmark(
    "text",
    "Held-out text",
    "Bits per byte (lower is better) of whole documents, their ends included; of exchanges the "
    "response given the prompt.",
    items,
    rows,
    needs="data",
    likelihoods=True,
)
BIGRAM, FIVEGRAM = baseline(2), baseline(5)
