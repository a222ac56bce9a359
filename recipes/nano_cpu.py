"""The recipe of the bundled model, for two CPU cores.

    python recipes/nano_cpu.py runs/nano --corpora CORPORA

trains the tokenizer, tokenises, pre-trains, tunes, teaches to copy, has two specialists practise,
and leaves the model that learned from them in runs/nano/distill/model.
Texts for the held-out loss are looked for in a folder `eval` beside CORPORA. Interrupt it at any
time; the same command goes on. A processor that does not multiply bfloat16 natively should add
`--precision float32-compiled`.
"""

from __future__ import annotations

from dataclasses import replace

from nano_stages import Scale, main

from dsv4.config import CSA, HCA, SWA
from dsv4.presets import preset
from dsv4.training import Schedule

SCALE = Scale(
    model=replace(
        preset("nano"),
        num_hidden_layers=4,
        num_hash_layers=2,
        num_experts_per_tok=2,
        compress_ratios=(SWA, CSA, HCA, CSA, SWA),
    ),
    text=1.0,
    pretrain=Schedule(700, lr=4e-3, warmup=40, decay=0.0, accumulate=2, mtp=(0.0, 0.0), dense=1.0),
    tune=Schedule(
        360, lr=3e-3, warmup=10, decay=1.0, floor=0.02, accumulate=2, mtp=(0.3, 0.3),
        dense=300 / 360, indexer_steps=60, indexer_lr=3e-3,
    ),
    copies=Schedule(1200, lr=5e-4, warmup=10, decay=0.0, mtp=(0.0, 0.0)),
    copy=Schedule(800, lr=5e-4, warmup=6, decay=0.6, floor=0.05, mtp=(0.0, 0.3)),
    batch_tokens=4096,
    lengths=(1024, 1024),
)  # fmt: skip

if __name__ == "__main__":
    main(SCALE, __doc__ or "")
