"""One run of the experiments: an arm with a seed is trained and measured."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from experiments_arms import ARMS, MAX_LENGTH, Arm
from experiments_data import MIX, Needle, batches, load

from dsv4.config import ModelConfig
from dsv4.data.batches import Mix
from dsv4.errors import TrainingError
from dsv4.model.retrofit import fit_engram
from dsv4.model.transformer import Transformer
from dsv4.training import Schedule
from dsv4.training.config import RunConfig
from dsv4.training.indexer import is_indexer, read_densely
from dsv4.training.initial import initial_model
from dsv4.training.metrics import Record, read_steps
from dsv4.training.pretrain import train_on

HELDOUT_BATCHES = 8
WARMUP = 20
EVALUATIONS = 5
"""Held-out losses per run: points of its curve."""

TIMED = 8
"""The last steps of a run whose time is told."""


@dataclass(frozen=True)
class Task:
    """A run to make. out: the prepared folder; scratch: where files go that are not kept.
    jobs: how many runs share the device."""

    arm: str
    seed: int
    steps: int
    batch_tokens: int
    device: str
    jobs: int
    out: Path
    scratch: Path


def run(task: Task) -> dict[str, Any]:
    """Train and measure; the result, with its curve under `curve`.

    Raises TrainingError if a signal ended the run early.
    """
    settle(task)
    arm, prepared = ARMS[task.arm], load(task.out)
    config = fit_engram(arm.model, prepared.canonical)
    model = initial_model(config, None, task.seed, canonical=prepared.canonical)
    if arm.prepare is not None:
        arm.prepare(model)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=task.scratch) as folder:
        settings = run_config(arm, task, Path(folder))
        mix = Mix(prepared.mix, tuple(source.epochs for source in MIX), masked=True)
        trained = train_on(
            model, mix, prepared.heldout, settings, lambda record: None, lambda line: None
        )
        if not trained.finished:
            raise TrainingError(f"stopped after {trained.step} of {task.steps} steps")
        steps = read_steps(settings.out / "metrics.jsonl")
    last = steps[-TIMED:]
    result = {
        "arm": task.arm,
        "seed": task.seed,
        "steps": task.steps,
        "tokens": steps[-1]["tokens"],
        "loss": steps[-1]["validation_loss"],
    }
    with on_device(trained.model, task.device):
        for name, needles in prepared.needles.items():
            result[name] = needle_accuracy(trained.model, needles, task.batch_tokens)
    return result | {
        # Layers read all their entries, so indexers are neither trained nor used.
        "parameters": sum(
            p.numel() for n, p in trained.model.named_parameters() if not is_indexer(n)
        ),
        "kv_bytes_per_token": kv_bytes(config),
        "seconds": round(time.monotonic() - began, 1),
        "seconds_per_step": sum(record["seconds"] for record in last) / len(last),
        "device": device_name(task.device),
        "curve": curve(steps),
    }


def settle(task: Task) -> None:
    """One thread, TF32 products, and this run's share of the memory: a process that reaches it
    gives back what it only keeps in reserve, before it fails."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    if task.device.startswith("cuda"):
        torch.cuda.set_per_process_memory_fraction(0.85 / task.jobs)


def run_config(arm: Arm, task: Task, out: Path) -> RunConfig:
    """Settings of a run. In float32, op by op: compiling would take longer than the run."""
    return RunConfig(
        out=out,
        schedule=Schedule(
            task.steps,
            lr=arm.lr,
            warmup=min(WARMUP, task.steps),
            decay=0.4,
            mtp=(arm.mtp, arm.mtp),
            dense=1.0,
        ),
        batch_tokens=task.batch_tokens,
        max_length=min(MAX_LENGTH, task.batch_tokens),
        seed=task.seed,
        device=task.device,
        optimizer=arm.optimizer,
        bias_speed=0.01,
        eval_every=max(1, task.steps // EVALUATIONS),
        eval_batches=HELDOUT_BATCHES,
        checkpoint_every=task.steps,
    )


@contextmanager
def on_device(model: Transformer, device: str) -> Iterator[None]:
    """Have a model on a device, reading as it was trained to, inside a `with` block."""
    model.to(device)
    read_densely(model, True)
    try:
        yield
    finally:
        read_densely(model, False)
        model.to("cpu")


@torch.no_grad()
def needle_accuracy(model: Transformer, needles: Sequence[Needle], tokens: int) -> float:
    """Share of the values whose every token is the most probable one after the tokens before it.

    tokens: padded positions that are computed together, at most.
    """
    right = total = 0
    device = model.embed.weight.device
    for batch in batches(needles, tokens):
        width = max(len(item.ids) for item in batch)
        padded = [item.ids + [0] * (width - len(item.ids)) for item in batch]
        # Causal: what stands after a place, padding too, does not change what is said there.
        logits_BTV = model(torch.tensor(padded, device=device)).logits_BTV
        guesses = logits_BTV.argmax(-1).tolist()
        for item, guessed in zip(batch, guesses, strict=True):
            for place, length in item.answers:
                total += 1
                said = guessed[place - 1 : place - 1 + length]
                right += said == item.ids[place : place + length]
    return right / total


def kv_bytes(config: ModelConfig, context: int = MAX_LENGTH) -> float:
    """Bytes of cached keys and entries per token of a context, window included, in bfloat16; no
    index keys, since every entry is read."""
    row = 2 * config.head_dim
    total = 0.0
    for ratio in config.layer_ratios:
        total += row * min(config.sliding_window, context)
        total += row * (context // ratio) if ratio else 0
    return total / context


def curve(steps: Sequence[Record]) -> dict[str, list[float]]:
    """Training loss of every step and held-out losses, over tokens."""
    held = [record for record in steps if "validation_loss" in record]
    return {
        "tokens": [record["tokens"] for record in steps],
        "loss": [round(record["loss"], 4) for record in steps],
        "heldout_tokens": [record["tokens"] for record in held],
        "heldout_loss": [round(record["validation_loss"], 4) for record in held],
    }


def device_name(device: str) -> str:
    """What the runs ran on."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def dumped(result: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write a result's curve to `out/curves`; returns the result without it."""
    folder = out / "curves"
    folder.mkdir(exist_ok=True)
    path = folder / f"{result['arm']}-{result['seed']}.json"
    path.write_text(json.dumps(result["curve"]), encoding="utf-8")
    return {key: value for key, value in result.items() if key != "curve"}
