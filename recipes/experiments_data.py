"""What the runs of the experiments read: shards of tales and of recall lists, and needles.

A recall list gives keys and values, then keys again, in any order:

    See lamp red, bear blue, fork green, ... fork green, lamp red, ...

so that the values after the first of each can only be known by looking back. Keys, values and
their pairs are drawn anew for every list; a held-out list is one that was not trained on. Of a
list only values are learned, a third of its tokens, where a conversation has one answer in
hundreds: what is to be compared is who can look back, not who has learned to read a question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
from experiments_arms import VOCABULARY

from dsv4.data.corpora import Source, read
from dsv4.data.shards import Shard, build_shards, digest, open_shard
from dsv4.data.tokenizer import train_tokenizer
from dsv4.encoding.control import BOS
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import DataError
from dsv4.tasks.words import ANIMALS, COLOURS, JOBS, THINGS

TALES = "synth_instruct/*.jsonl.xz"
LLAMA = "MIT (text generated with Llama 3.1)"
KINDS = ("child", "bedtime")
MIX = (
    Source("tales", TALES, 1, LLAMA, KINDS, keep=0.3, split="train"),
    Source("lists", "lists.jsonl", 1, "this project"),
)
HELDOUT = (Source("heldout-tales", TALES, 1, LLAMA, KINDS, keep=0.3, split="heldout"),)
LISTS = 3400
KEYS_OF_A_LIST = (4, 60)
"""Fewest and most keys of a list to train on."""

PAIRS_OF_A_LIST = 160
"""Pairs of it in all, most of them questions: about 480 tokens."""

OPENING = "See"
"""Before the first key, which would otherwise be another token here than where it is asked for."""

KEYS = tuple(w for w in (*THINGS, *ANIMALS, *JOBS) if " " not in w and w not in COLOURS)
NEEDLES = {"near": (64, 10), "far": (32, 60)}
"""Held-out lists: how many, and of how many keys. A value stands three times that many tokens
back: about one window of `base` in `near`, and six in `far`."""


@dataclass(frozen=True)
class Needle:
    """A list as tokens, and (place, length) of every value that can be looked up."""

    ids: list[int]
    answers: list[list[int]]


@dataclass(frozen=True)
class Prepared:
    """Everything that runs read. canonical: canonical id of every token, for Engram."""

    mix: tuple[Shard, ...]
    heldout: tuple[Shard, ...]
    needles: dict[str, list[Needle]]
    canonical: list[int]


def prepare(out: Path, corpora: Path, lists: int = LISTS) -> None:
    """Make tokenizer, shards and needles in `out`; after it runs need nothing else.

    lists: how many recall lists to train on. Raises DataError if the corpora can not be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = out / "corpora"
    made.mkdir(exist_ok=True)
    texts = [text_of(training_list(Random(f"train/{i}"))) for i in range(lists)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (made / "lists.jsonl").write_text(lines, encoding="utf-8")
    folders = {source.name: made if source.name == "lists" else corpora for source in MIX}
    documents = (doc for source in MIX for doc in read(source, folders[source.name]))
    path = out / "tokenizer.json"
    train_tokenizer(documents, VOCABULARY, path)
    tokenizer = Tokenizer.from_file(path, VOCABULARY)
    version = digest(path)
    for source in (*MIX, *HELDOUT):
        folder = folders.get(source.name, corpora)
        build_shards((source,), folder, tokenizer, VOCABULARY, out / "shards", version=version)
    learn_values(out / "shards", tokenizer)
    (made / "lists.jsonl").unlink()
    made.rmdir()
    needles = {
        name: [asdict(needle(tokenizer, Random(f"{name}/{i}"), pairs)) for i in range(count)]
        for name, (count, pairs) in NEEDLES.items()
    }
    files = sorted((out / "shards").glob("*.npy"))
    contents = {
        "digests": {file.name: digest(file) for file in files},
        "canonical": tokenizer.canonical_ids(VOCABULARY),
        "needles": needles,
    }
    (out / "prepared.json").write_text(json.dumps(contents), encoding="utf-8")


def load(out: Path) -> Prepared:
    """What `prepare` left. Raises DataError if it is missing or not what was left."""
    path, shards = out / "prepared.json", out / "shards"
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        digests = {name: digest(shards / name) for name in contents["digests"]}
    except (OSError, ValueError) as error:
        raise DataError(f"{out} is not prepared: {error}", "run `prepare` first") from error
    if digests != contents["digests"]:
        raise DataError(f"{shards} has other shards than {path} names", "prepare another folder")
    needles = {
        name: [Needle(**item) for item in items] for name, items in contents["needles"].items()
    }
    return Prepared(
        tuple(open_shard(shards, source.name) for source in MIX),
        tuple(open_shard(shards, source.name) for source in HELDOUT),
        needles,
        contents["canonical"],
    )


def learn_values(shards: Path, tokenizer: Tokenizer) -> None:
    """Let the loss mask of the lists be true for values alone: keys can not be foreseen."""
    values = [token for colour in COLOURS for token in tokenizer.encode(f" {colour}")]
    mask = np.packbits(np.isin(open_shard(shards, "lists").tokens, values))
    np.save(shards / "lists.learned.npy", mask)


def training_list(rng: Random) -> list[str]:
    """The words of a list whose keys are asked for at random, over and over."""
    keys = rng.sample(KEYS, rng.randint(*KEYS_OF_A_LIST))
    return recall_list(rng, keys, rng.choices(keys, k=PAIRS_OF_A_LIST - len(keys)))


def recall_list(rng: Random, keys: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Key and value in turn: of every key, then of those that are asked for."""
    values = {key: rng.choice(COLOURS) for key in keys}
    return [word for key in (*keys, *asked) for word in (key, f"{values[key]},")]


def text_of(words: Sequence[str]) -> str:
    """A list as it is written."""
    return " ".join((OPENING, *words))


def needle(tokenizer: Tokenizer, rng: Random, count: int) -> Needle:
    """A held-out list of so many keys, each asked for once. Raises DataError if its text is cut
    elsewhere than between words, so that the places of values are unknown."""
    keys = rng.sample(KEYS, count)
    words = recall_list(rng, keys, rng.sample(keys, len(keys)))
    ids, answers = [tokenizer.control_id(BOS), *tokenizer.encode(OPENING)], []
    for number, word in enumerate(words):
        if number % 2 and number >= len(words) // 2:
            value = tokenizer.encode(f" {word.rstrip(',')}")
            answers.append([len(ids), len(value)])
        ids += tokenizer.encode(f" {word}")
    if ids[1:] != tokenizer.encode(text_of(words)):
        raise DataError("the tokenizer joins words of a recall list")
    return Needle(ids, answers)


def batches(needles: Sequence[Needle], tokens: int) -> list[list[Needle]]:
    """Needles of similar length together, at most `tokens` padded positions in a batch."""
    rest = sorted(needles, key=lambda item: len(item.ids))
    made: list[list[Needle]] = []
    for item in rest:
        if made and len(item.ids) * (len(made[-1]) + 1) <= tokens:
            made[-1].append(item)
        else:
            made.append([item])
    return made
