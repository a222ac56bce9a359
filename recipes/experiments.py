"""Does each part of V4 help at a scale that two cores can repeat? The arms, the runs, the table.

    python recipes/experiments.py run runs/parts --corpora CORPORA        # resumes where it stopped
    python recipes/experiments.py table runs/parts                        # Markdown on stdout

Every arm is trained from scratch on the same batches for the same number of tokens, once per seed
(seeds change weights and order). Differences are taken seed by seed against the arm's partner;
an interval that excludes 0 is called significant, others are not.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

import torch

from dsv4.config import CSA, HCA, SWA, ModelConfig
from dsv4.data.batches import Mix
from dsv4.data.corpora import Source
from dsv4.data.shards import Shard, build_shards, digest
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engram import EngramConfig
from dsv4.model.transformer import Transformer
from dsv4.model.weights import set_weight
from dsv4.tasks import registry
from dsv4.tasks.problem import Ask
from dsv4.training import Schedule, TrainConfig
from dsv4.training.initial import initial_model
from dsv4.training.optimizer import OptimizerSettings
from dsv4.training.pretrain import prepare_tokenizer, train_on

LLAMA = "MIT (text generated with Llama 3.1)"
SYNTH = "synth_instruct/*.jsonl.xz"
MIX = (
    Source("tales", SYNTH, 1, LLAMA, ("child", "bedtime"), keep=0.5),
    Source("recall", "tasks:recall", 1, "this project", count=6000, seed=1),
    Source("memory", "tasks:memory", 1, "this project", count=3000, seed=1),
)
HELDOUT = (Source("tales", "heldout_snakes.jsonl.xz", 1, LLAMA, ("child", "bedtime")),)
NEEDLES, NEEDLE_WORDS = 100, 150
"""Held-out recall problems per run, and the words of text around what is to be found."""

BASE = ModelConfig(
    vocab_size=2048,
    hidden_size=128,
    moe_intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    head_dim=64,
    qk_rope_head_dim=32,
    q_lora_rank=64,
    o_groups=2,
    o_lora_rank=64,
    index_n_heads=4,
    index_head_dim=64,
    index_topk=32,
    n_routed_experts=8,
    num_experts_per_tok=2,
    routed_scaling_factor=1.5,
    compress_ratios=(SWA, CSA, HCA, CSA, SWA),
    num_hash_layers=2,
    sliding_window=32,
    max_position_embeddings=4096,
)
MEMORY = EngramConfig((1,), 3, 2, 32, 2048, 2048)


@dataclass(frozen=True)
class Arm:
    """One way to build or train the model. partner: the arm it is compared with."""

    what: str
    model: ModelConfig
    partner: str = "base"
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    mtp: float = 0.3
    lr: float = 4e-3
    prepare: Callable[[Transformer], None] | None = None


def plain_residual(model: Transformer) -> None:
    """One stream, read as it is and added to with weight 1: freeze the connections there."""
    for name, parameter in model.named_parameters():
        if ".hc_" in name or name.startswith("hc_"):
            parameter.data.zero_()
            parameter.requires_grad_(False)


ARMS = {
    "base": Arm("CSA and HCA, mHC, Muon, two hash layers, MTP, no Engram", BASE),
    "full-attention": Arm(
        "every layer attends to all earlier tokens",
        replace(BASE, compress_ratios=(SWA,) * 5, sliding_window=512),
    ),
    "residual": Arm(
        "a plain residual stream instead of mHC", replace(BASE, hc_mult=1), prepare=plain_residual
    ),
    "adamw": Arm(
        "AdamW for all matrices (rate 2e-3)",
        BASE,
        optimizer=OptimizerSettings(matrices="adamw"),
        lr=2e-3,
    ),
    "learned-routing": Arm("learned routing in all layers", replace(BASE, num_hash_layers=0)),
    "no-mtp": Arm("no MTP loss", BASE, mtp=0.0),
    "engram": Arm("Engram in layer 1", replace(BASE, engram=MEMORY)),
    "more-experts": Arm(
        "as many parameters as `engram`, in 12 experts instead of 8",
        replace(BASE, n_routed_experts=12),
        partner="engram",
    ),
    "engram-one-row": Arm(
        "Engram whose table has one row per hash",
        replace(BASE, engram=replace(MEMORY, vocab_size=1)),
        partner="engram",
    ),
}

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Half-width of a 95 % interval in standard errors, by number of seeds (Student, n - 1)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    if args.what == "table":
        print(table(read_results(args.out)))
        return
    if args.corpora is None:
        parser.error("run needs --corpora")
    for seed in range(args.seeds):  # one seed of every arm before the next: early tables are fair
        for name in args.arms:
            if (name, seed) not in {(r["arm"], r["seed"]) for r in read_results(args.out)}:
                result = run(name, seed, args)
                with (args.out / "results.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, object]:
    """Train one arm with one seed and measure it."""
    arm = ARMS[name]
    config = TrainConfig(
        model=arm.model,
        sources=MIX,
        corpora=args.corpora,
        out=args.out / name / str(seed),
        schedule=Schedule(
            args.steps, lr=arm.lr, warmup=20, decay=0.4, mtp=(arm.mtp, arm.mtp), dense=1.0
        ),
        batch_tokens=4096,
        max_length=512,
        seed=seed,
        bias_speed=0.01,
        precision=args.precision,
        optimizer=arm.optimizer,
        eval_every=args.steps,
        checkpoint_every=args.steps,
    )
    path = prepare_tokenizer(replace(config, out=args.out))
    tokenizer = Tokenizer.from_file(path, BASE.vocab_size)

    def shards(sources: tuple[Source, ...], folder: Path, out: Path) -> tuple[Shard, ...]:
        version = digest(path)
        return tuple(
            build_shards(sources, folder, tokenizer, BASE.vocab_size, out, version=version)
        )

    mix = Mix(shards(MIX, args.corpora, args.out / "shards"), tuple(s.epochs for s in MIX))
    heldout = shards(HELDOUT, args.corpora.parent / "eval", args.out / "heldout")
    model = initial_model(arm.model, None, seed)
    if model.ngrams is not None:
        canonical = tokenizer.canonical_ids(BASE.vocab_size)
        set_weight(model, "ngrams.token_map", torch.tensor(canonical))
    if arm.prepare is not None:
        arm.prepare(model)
    began = time.monotonic()
    trained = train_on(model, mix, heldout, config, lambda record: None, print)
    seconds = time.monotonic() - began
    metrics = (config.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(metrics[-1])
    return {
        "arm": name,
        "seed": seed,
        "tokens": last["tokens"],
        "loss": last["validation_loss"],
        "needles": needle_accuracy(trained.model, tokenizer),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "kv_bytes_per_token": kv_bytes(arm.model),
        "seconds": round(seconds),
    }


@torch.no_grad()
def needle_accuracy(model: Transformer, tokenizer: Tokenizer) -> float:
    """Share of held-out recall problems whose every answer token is the most probable one."""
    right = 0
    ask = Ask(words=NEEDLE_WORDS, effort="off")
    for problem in registry.problems("recall", NEEDLES, seed=7, split="heldout", ask=ask):
        prompt = tokenizer.encode_prompt(problem.prompt())
        answer = tokenizer.encode_prompt(problem.answer())
        logits_BTV = model(torch.tensor([prompt + answer])).logits_BTV
        guesses = logits_BTV[0, len(prompt) - 1 : -1].argmax(-1).tolist()
        right += guesses == answer
    return right / NEEDLES


def kv_bytes(config: ModelConfig, context: int = 512) -> float:
    """Bytes of cached keys and entries per token of a context, window included, in bfloat16."""
    row = 2 * config.head_dim
    total = 0.0
    for ratio in config.layer_ratios:
        total += row * min(config.sliding_window, context)
        total += row * (context // ratio) if ratio else 0
    return total / context


def read_results(out: Path) -> list[dict[str, object]]:
    path = out / "results.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(results: list[dict[str, object]]) -> str:
    """One row per arm: means over seeds, and the difference from its partner with its interval."""
    lines = [
        "| arm | what | seeds | held-out loss | loss minus partner's | needles | needles minus "
        "partner's | parameters | KV bytes/token | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    by_arm = {name: {r["seed"]: r for r in results if r["arm"] == name} for name in ARMS}
    for name, arm in ARMS.items():
        runs = by_arm[name]
        if not runs:
            continue

        def average(key: str, runs: dict = runs) -> float:
            return mean(float(r[key]) for r in runs.values())

        shared = sorted(set(runs) & set(by_arm[arm.partner])) if name != arm.partner else []
        gaps = [
            difference([runs[s][key] - by_arm[arm.partner][s][key] for s in shared])
            for key in ("loss", "needles")
        ]
        partner = f" vs {arm.partner}" if name != arm.partner else ""
        lines.append(
            f"| {name}{partner} | {arm.what} | {len(runs)} | {average('loss'):.3f} | {gaps[0]} | "
            f"{average('needles'):.2f} | {gaps[1]} | {average('parameters') / 1e6:.2f} M | "
            f"{average('kv_bytes_per_token'):.0f} | {average('seconds'):.0f} |"
        )
    return "\n".join(lines)


def difference(gaps: list[float]) -> str:
    """Mean, 95 % interval, and whether it excludes 0."""
    if not gaps:
        return ""
    if len(gaps) < 2:
        return f"{gaps[0]:+.3f} (one seed)"
    half = T95[min(len(gaps), max(T95))] * stdev(gaps) / math.sqrt(len(gaps))
    verdict = "significant" if abs(mean(gaps)) > half else "not significant"
    return f"{mean(gaps):+.3f} ± {half:.3f}, {verdict}"


if __name__ == "__main__":
    main()
