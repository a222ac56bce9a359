"""The recipe of the bundled model, for two CPU cores.

    dsv4 train runs/nano --corpora CORPORA --recipe recipes/nano_cpu.py

trains the tokenizer, tokenises the corpora named in `MIX` (models/nano/README.md says where they
come from), trains, and leaves the model in runs/nano/model. Texts for the held-out loss are looked
for in a folder `eval` beside CORPORA. Interrupt it at any time; the same command goes on. On a
processor that does not multiply bfloat16 natively add `--precision float32`.
"""

from __future__ import annotations

from pathlib import Path

from dsv4.data.corpora import STANDARD_LIBRARY, Source
from dsv4.presets import preset
from dsv4.training import Schedule, TrainConfig

LLAMA = "MIT (text generated with Llama 3.1)"
SYNTH = "synth_instruct/*.jsonl.xz"
MIX = (
    Source("tales", SYNTH, 1, LLAMA, ("child", "bedtime", "slice-of-life")),
    Source("campfire", SYNTH, 0.5, LLAMA, ("campfire", "stories")),
    Source("explained", SYNTH, 2, LLAMA, ("eli5", "explanations", "jokes", "howto")),
    Source("answers", SYNTH, 1, LLAMA, ("trivia", "song-poems", "spelling")),
    Source("arithmetic", SYNTH, 1, LLAMA, ("step-by-step-math",), keep=0.2),
    Source("children", "stories_pd_cc/children-ccby-*.jsonl.xz", 2, "CC-BY 4.0"),
    Source("smalltalk", "sft_extra/chatterbot_english.jsonl.xz", 3, "BSD-3-Clause"),
    Source("words", "facts/wordnet_definitions.jsonl.xz", 1, "CC-BY 4.0, WordNet", keep=0.05),
    Source("python_answers", SYNTH, 1, LLAMA, ("python",)),
    Source("python_tasks", "sft_extra/mbpp_train.jsonl.xz", 2, "CC-BY 4.0"),
    Source("python_library", STANDARD_LIBRARY, 1, "PSF-2.0", keep=0.3),
)
HELDOUT = (
    Source("tales", "heldout_snakes.jsonl.xz", 1, LLAMA, ("child", "bedtime", "slice-of-life")),
    Source("children", "heldout_children-ccby.jsonl.xz", 1, "CC-BY 4.0"),
)


def config(corpora: Path, out: Path) -> TrainConfig:
    """The settings of the run that made models/nano."""
    heldout = corpora.parent / "eval"
    return TrainConfig(
        model=preset("nano"),
        sources=MIX,
        corpora=corpora,
        out=out,
        schedule=Schedule(
            780,
            lr=5e-3,
            warmup=17,
            decay=0.35,
            floor=0.05,
            dense=680 / 780,
            indexer_steps=100,
            indexer_lr=5e-3,
        ),
        precision="bfloat16",
        # V4's speed of 0.001 balances over trillions of tokens; a short run needs a faster one.
        bias_speed=0.01,
        quantise_from=0.85,
        heldout=HELDOUT if heldout.is_dir() else (),
        heldout_folder=heldout,
        eval_every=50,
    )
