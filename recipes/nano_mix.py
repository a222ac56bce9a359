"""What the bundled model reads: corpora and problems made by the package's own `tasks/`.

CORPORA is a folder of JSON lines; models/nano/README.md says where each file comes from.
"""

from __future__ import annotations

from dataclasses import replace

from dsv4.data.corpora import STANDARD_LIBRARY, Source
from dsv4.tasks.problem import Ask

LLAMA = "MIT (text generated with Llama 3.1)"
SYNTH = "synth_instruct/*.jsonl.xz"
OURS = "this project (generated)"

PROBLEMS = {
    "identity": 4000,
    "arithmetic": 9000,
    "word_problem": 3000,
    "strings": 4000,
    "format": 1500,
    "recall": 1500,
    "lookup": 1000,
    "repeat": 6000,
    "needle": 800,
    "memory": 800,
    "whereabouts": 3000,
    "meaning": 2000,
    "infill": 2500,
    "tool_call": 1500,
    "tool_calls": 300,
    "tool_none": 500,
    "tool_result": 800,
    "tool_session": 700,
    "everyday_tool": 800,
}
"""Problems of each task that the pre-training mix holds at scale 1."""

COPIED = {
    "tool_call": 1800,
    "tool_calls": 4700,
    "tool_session": 700,
    "everyday_tool": 1100,
    "repeat": 12000,
}
"""Problems of each task that teach to copy: about 6 million tokens, half of them in replies of
several calls."""
KEPT = 0.7
"""How much of the rest of the tuning mix is read besides, so that it is not forgotten: a share of
that of scale 1. By estimate it makes more than two of five tokens."""

TOKENS_PER_WORD = {"needle": 1.45, "recall": 5.0}
"""Of made-up texts around a fact, and of lists of made-up keys and values; with some room."""
FAR_TOKENS = 100_000
"""Tokens of each task and length at scale 1."""

STORIES = ("child", "bedtime", "slice-of-life", "campfire", "stories")
READING = (
    "extract", "summaries", "sentiment", "paraphrase", "fill-in-the-blank", "synonyms", "if",
    "book-facts", "movie-facts",
)  # fmt: skip
PYTHON = ("python_answers", "python_tasks", "python_library")

TEXT = (
    Source("tales", SYNTH, 2, LLAMA, ("child", "bedtime", "slice-of-life")),
    Source("campfire", SYNTH, 0.6, LLAMA, ("campfire", "stories")),
    Source("explained", SYNTH, 4, LLAMA, ("eli5", "explanations", "jokes", "howto")),
    Source("answers", SYNTH, 2, LLAMA, ("trivia", "song-poems", "spelling", "common-sense")),
    Source("arithmetic", SYNTH, 1, LLAMA, ("step-by-step-math",), keep=0.1),
    Source("formats", SYNTH, 1, LLAMA, ("format-convertion",), keep=0.2),
    Source("sentences", SYNTH, 1, LLAMA, ("sentences",), keep=0.3),
    Source("children", "stories_pd_cc/children-ccby-*.jsonl.xz", 4, "CC-BY 4.0"),
    Source("smalltalk", "sft_extra/chatterbot_english.jsonl.xz", 2, "BSD-3-Clause"),
    Source("words", "facts/wordnet_definitions.jsonl.xz", 1, "CC-BY 4.0, WordNet", keep=0.06),
    Source("python_answers", SYNTH, 1, LLAMA, ("python",)),
    Source("python_tasks", "sft_extra/mbpp_train.jsonl.xz", 2, "CC-BY 4.0"),
    Source("python_library", STANDARD_LIBRARY, 1, "PSF-2.0", keep=0.15, split="train"),
)

MORE_TEXT = (
    Source("books", "books_pd/*.jsonl.xz", 1, "public domain", keep=0.25),
    Source("classics", "stories_pd_cc/children-pd-*.jsonl.xz", 2, "public domain"),
    Source("folktales", "stories_pd_cc/folktales-pd-*.jsonl.xz", 2, "public domain"),
    Source("countries", "facts/world_factbook.jsonl.xz", 2, "CC0"),
    Source(
        "scenes", SYNTH, 1, LLAMA, ("scenes", "shows", "debates", "podcast", "textbook"), keep=0.4
    ),
    Source("sql", SYNTH, 2, LLAMA, ("sql",)),
    Source("gsm8k", "sft_extra/gsm8k_train.jsonl.xz", 4, "MIT"),
)
"""What a run of hundreds of millions of tokens reads besides."""

FIRST = ("smalltalk", "explained", "countries")
"""What a newcomer asks about."""

COFFEE = Source(
    "coffee", "sft_extra/taskmaster4_coffee_tools.jsonl.xz", 1, "CC-BY 4.0", split="train"
)

HELDOUT = (
    Source("tales", "heldout_snakes.jsonl.xz", 1, LLAMA, ("child", "bedtime", "slice-of-life")),
    Source("children", "heldout_children-ccby.jsonl.xz", 1, "CC-BY 4.0"),
)


def problems(scale: float, seed: int, times: dict[str, float] | None = None) -> tuple[Source, ...]:
    """`PROBLEMS` at a scale, some of them `times` as many."""
    return tuple(
        Source(
            f"task_{name}",
            f"tasks:{name}",
            1,
            OURS,
            count=max(1, round(scale * count * (times or {}).get(name, 1))),
            seed=seed,
        )
        for name, count in PROBLEMS.items()
    )


def pretraining(scale: float) -> tuple[Source, ...]:
    """Every token of it is learned. scale: 1 for two processor cores, more for a GPU."""
    return (*_texts(scale), *problems(scale, seed=1))


def tuning(scale: float, longest: int) -> tuple[Source, ...]:
    """Of its conversations only what the assistant says is learned: what people ask first in
    the words they use, tools, thinking, itself, and some of everything read before.

    longest: tokens of the longest row.
    """
    told = Source("told", SYNTH, 1, LLAMA, STORIES, keep=min(1.0, scale / 6), retold=True)
    reading = Source("reading", SYNTH, 1, LLAMA, READING, keep=min(1.0, 0.06 * scale))
    coffee = replace(COFFEE, keep=min(1.0, scale / 12))
    before = [source for source in _texts(scale) if not {*source.kinds} & {*STORIES}]
    often_again = (*FIRST, *PYTHON)
    again = [_again(source, 0.75 if source.name in often_again else 0.25) for source in before]
    often = {"tool_call": 2.2, "tool_calls": 6.0, "everyday_tool": 1.2, "tool_none": 0.7,
             "arithmetic": 0.6, "recall": 0.7, "infill": 2.0, "format": 1.5,
             "repeat": 2.0}  # fmt: skip
    own = problems(0.6 * scale, seed=2, times=often)
    return (told, reading, *again, coffee, *own, *far(scale, longest))


def copying(scale: float, longest: int, rest: float = KEPT) -> tuple[Source, ...]:
    """Names and values never seen before, to be written exactly, and some of what `tuning` has
    besides calls: about as much at every scale, as the stages are as long at every one.

    rest: see `KEPT`.
    """
    calls = {f"task_{name}" for name in COPIED}
    kept = (source for source in tuning(scale, longest) if source.name not in calls)
    own = tuple(
        Source(f"task_{name}", f"tasks:{name}", 1, OURS, count=count, seed=22)
        for name, count in COPIED.items()
    )
    return (*(_little(source, rest / scale) for source in kept), *own)


def far(scale: float, longest: int) -> tuple[Source, ...]:
    """Facts and values to be found in texts of up to `longest` tokens."""
    return tuple(
        Source(
            f"far_{name}_{words}",
            f"tasks:{name}",
            1,
            OURS,
            count=max(1, round(scale * FAR_TOKENS / (words * tokens))),
            seed=3,
            ask=Ask(words=words),
        )
        for name, tokens in TOKENS_PER_WORD.items()
        for words in (350, 700, 1400, 2800, 5600)
        if words * tokens < longest
    )


def _texts(scale: float) -> tuple[Source, ...]:
    text: tuple[Source, ...] = TEXT
    if scale > 1:
        text = (*(_more(source) for source in TEXT), *MORE_TEXT)
    return tuple(
        replace(source, infill=0.1) if source.name in PYTHON else source for source in text
    )


def _more(source: Source) -> Source:
    """A source of which the small mix holds a part only, four times as much of it."""
    return replace(source, keep=min(1.0, 4 * source.keep))


def _little(source: Source, share: float) -> Source:
    """A share of a source; of a task, other problems."""
    if source.count:
        return replace(source, count=max(1, round(share * source.count)), seed=source.seed + 10)
    return _again(source, share)


def _again(source: Source, share: float) -> Source:
    """As many tokens as `share` of a pass over a source, each document as seldom as can be."""
    passes = source.keep * source.epochs * share
    return replace(source, keep=min(1.0, passes), epochs=max(1.0, passes))
