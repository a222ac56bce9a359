"""The recipe of the bundled model at the scale of one data-centre GPU.

    python recipes/nano_gpu.py runs/nano --corpora CORPORA

The same stages as nano_cpu.py with a larger vocabulary, more layers and about half a billion
tokens. It has not been run: how long it takes on which GPU is not known. Checkpoints are written
in pieces of at most 16 MiB; the same command goes on after an interruption.
"""

from __future__ import annotations

from dataclasses import replace

from nano_stages import Scale, main

from dsv4.config import CSA, HCA, SWA
from dsv4.engram import EngramConfig
from dsv4.presets import preset
from dsv4.training import Schedule

SCALE = Scale(
    model=replace(
        preset("nano"),
        vocab_size=16384,
        num_hidden_layers=8,
        num_hash_layers=3,
        compress_ratios=(SWA, SWA, *(CSA, HCA) * 3, SWA),
        n_routed_experts=32,
        engram=EngramConfig((1,), 3, 4, 32, 16384, 16384),
    ),
    text=8.0,
    pretrain=Schedule(
        3000, lr=3e-3, warmup=60, decay=0.0, accumulate=2, ramp=0.1, mtp=(0.0, 0.0), dense=1.0,
        lengths=((0.8, 1024),),
    ),
    tune=Schedule(
        600, lr=2e-3, warmup=20, decay=1.0, floor=0.02, accumulate=1, mtp=(0.3, 0.3),
        dense=500 / 600, indexer_steps=100, indexer_lr=2e-3,
    ),
    batch_tokens=65536,
    max_length=2048,
    device="cuda",
)  # fmt: skip

if __name__ == "__main__":
    main(SCALE, __doc__ or "")
