"""The recipe of the bundled model: two stages on one data-centre GPU, the others on two CPU cores.

    python recipes/nano_gpu.py runs/nano --corpora CORPORA --prepare      # where the texts are
    python recipes/nano_gpu.py runs/nano --corpora CORPORA --stage pretrain    # on the GPU
    python recipes/nano_gpu.py runs/nano --corpora CORPORA --stage tune        # on the GPU
    python recipes/nano_gpu.py runs/nano --corpora CORPORA                # the rest, on a CPU

`runs/nano` can be copied between the two machines after each step; the GPU's needs no texts. The
first stage took 303 s on an H100, with compilation cached before (another 100 s), the second 536 s
on an H200, compilation included. The memory of the GPU that this needs is 37 GB.
"""

from __future__ import annotations

from nano_stages import Scale, main

from dsv4.presets import preset
from dsv4.training import Schedule

SCALE = Scale(
    model=preset("nano"),
    text=6.0,
    pretrain=Schedule(
        753, lr=4e-3, warmup=60, decay=0.0, mtp=(0.0, 0.0), dense=1.0,
        lengths=((720 / 753, 1024),),
    ),
    tune=Schedule(
        1000, lr=3e-3, warmup=10, decay=1.0, floor=0.02, mtp=(0.3, 0.3), dense=0.92,
        indexer_steps=60, indexer_lr=2e-3,
    ),
    copies=Schedule(1200, lr=5e-4, warmup=10, decay=0.0, mtp=(0.0, 0.0)),
    copy=Schedule(800, lr=5e-4, warmup=6, decay=0.6, floor=0.05, mtp=(0.0, 0.3)),
    batch_tokens=49152,
    lengths=(2048, 8192),
    device="cuda",
    checkpoint_every=200,
)  # fmt: skip

if __name__ == "__main__":
    main(SCALE, __doc__ or "")
