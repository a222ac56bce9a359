"""Two processes train as one does: the same losses and weights, up to the order of sums."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.unit.training.small import MEMORY, new_model, new_trainer, read_log

from dsv4.training.schedule import Schedule

ROOT = Path(__file__).parents[3]
PLAN = Schedule(steps=3, lr=5e-3, warmup=2, accumulate=3, ramp=0.5)
"""Micro-batches 2, 3 and 3 a step: the second process has one, then one of two rounds."""

CHILD = """
import shutil, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from dsv4 import parallel
from dsv4.parallel.sharding import Divided
from dsv4.training.divided import DividedObjective
from tests.unit.parallel.test_sharding import PLAN
from tests.unit.training.small import MEMORY, new_model, new_trainer

out = Path(sys.argv[1])

def begin():
    divided = Divided(new_model(MEMORY))
    trainer = new_trainer(out, PLAN, model=divided.model, checkpoint_every=9, eval_every=2)
    trainer.objective = DividedObjective(trainer.objective, divided)
    return divided, trainer

def stop_after_two(record):
    trainer._stop |= record["step"] == 2

with parallel.joined("cpu"):
    _, trainer = begin()
    assert not trainer.resume() and not trainer.run(stop_after_two)
    if not parallel.rank():
        shutil.copytree(out, out.with_name("then-one"))
    divided, trainer = begin()
    assert trainer.resume() and trainer.run()
    whole = divided.gathered()
    if not parallel.rank():
        weights = {n: p.detach().contiguous() for n, p in whole.named_parameters()}
        save_file(weights, out / "weights.safetensors")
"""


def launch(out):
    """Run the child in two processes, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", CHILD, str(out)]
    children = [
        subprocess.Popen(command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                         stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    try:
        for child in children:
            _, errors = child.communicate(timeout=240)
            assert child.returncode == 0, errors[-3000:]
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.communicate()


def test_two_processes_are_one_run(tmp_path):
    """Begun by two, stopped, gone on with by two, or by one from the two's checkpoint."""
    model, start = new_model(MEMORY), dict(new_model(MEMORY).named_parameters())
    new_trainer(tmp_path / "one", PLAN, model=model).run()
    launch(tmp_path / "two")
    other = new_trainer(tmp_path / "then-one", PLAN, model=new_model(MEMORY))
    assert other.resume() and other.step == 2
    other.run()

    one = read_log(tmp_path / "one")
    for name in ("two", "then-one"):
        two = read_log(tmp_path / name)
        for exact in ("step", "tokens", "lr"):
            assert [r[exact] for r in two] == [r[exact] for r in one]
        for close in ("loss", "mtp_loss", "indexer_loss", "balance", "grad_norm", "overload"):
            ours, theirs = ([r[close] for r in log] for log in (one, two))
            assert theirs == pytest.approx(ours, rel=1e-4), (name, close)
    # Adam moves by its rate even where a gradient is nothing but rounding, so only matrices.
    for name, theirs in load_file(tmp_path / "two" / "weights.safetensors").items():
        ours = dict(model.named_parameters())[name]
        if (ours.dim() == 2 and ".attn.w" in name) or name.endswith("engram.embed.weight"):
            moved = (ours - start[name]).norm()
            assert moved > 0 and (ours - theirs).norm() < 1e-2 * moved, name
