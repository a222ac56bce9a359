"""The loop: it learns, it resumes to the bit, it stops when told."""

import errno
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.training.small import new_trainer, read_log
from tests.unit.training.stand_in import CONFIG, Bigram

from dsv4.data.batches import Batches, Mix, Position
from dsv4.data.shards import Shard
from dsv4.errors import CheckpointError, UsageError
from dsv4.training.checkpoint import Folder
from dsv4.training.claim import claimed
from dsv4.training.language import LanguageObjective, Stream
from dsv4.training.loop import LoopSettings, Trainer
from dsv4.training.schedule import Schedule


def make(out, steps=30, **settings):
    """A trainer over documents that count upwards from a random token: easy to learn."""
    draw = np.random.default_rng(0)
    documents = [(int(draw.integers(3, 30)) + np.arange(draw.integers(8, 30))) for _ in range(64)]
    tokens = np.concatenate(documents).astype(np.uint16)
    shard = Shard("count", tokens, np.cumsum([0, *map(len, documents)]))
    schedule = Schedule(steps=steps, lr=0.02, warmup=3, accumulate=2, ramp=0.5)
    sizes = {"batch_tokens": 512, "max_length": 64, "seed": 1}
    stream = Stream(Mix((shard,), (1.0,)), schedule, **sizes)
    settings = {"eval_every": 10, "checkpoint_every": 1} | settings
    loop = LoopSettings(Path(out), schedule, **settings)
    model = Bigram()
    held = (Batches(Mix((shard,), (1.0,)), **sizes)[Position(0, 0)],)
    objective = LanguageObjective(model, CONFIG, stream, schedule, held)
    return Trainer(model, CONFIG, objective, loop)


def checkpoints(out):
    return Folder(Path(out) / "checkpoints").all()


def cut_at(step, trainer):
    """Run until a signal comes in that step."""

    def stop_there(record):
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not trainer.run(stop_there)


def metrics(out):
    records = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    timing = ("seconds", "tokens_per_second")
    return [{k: v for k, v in r.items() if k not in timing} for r in records]


def test_loss_falls_and_metrics_are_complete(tmp_path):
    assert make(tmp_path, steps=60).run()
    records = metrics(tmp_path)
    assert [r["step"] for r in records] == list(range(1, 61))
    assert records[0]["loss"] > 3.5 and records[-1]["loss"] < 1.0
    assert records[-1]["mtp_loss"] < records[0]["mtp_loss"]
    assert [r["step"] for r in records if "validation_loss" in r] == [10, 20, 30, 40, 50, 60]
    assert records[-1]["validation_loss"] < 1.0


def test_equal_settings_give_equal_numbers(tmp_path):
    make(tmp_path / "a", steps=8).run()
    make(tmp_path / "b", steps=8).run()
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_a_run_cut_at_any_step_resumes_to_the_same_numbers(tmp_path):
    make(tmp_path / "whole").run()
    for _ in range(3):
        trainer = make(tmp_path / "cut")
        trainer.resume()
        cut_at(trainer.step + 7, trainer)
    last = make(tmp_path / "cut")
    assert last.resume() and last.step == 21
    assert last.run()
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    ends = [checkpoints(tmp_path / name)[-1] for name in ("cut", "whole")]
    for file in ("weights-00001.safetensors", "optimizer-00001.safetensors"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()


CHILD = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.unit.training.test_loop import endless
trainer = endless(Path(sys.argv[1]), checkpoint_every=1)
trainer.resume()
trainer.run()
"""


def endless(out, **settings):
    """A long run of the real architecture, its rows growing at step 8."""
    plan = Schedule(400, lr=5e-3, warmup=3, lengths=((0.02, 32),), dense=0.01, indexer_steps=2)
    return new_trainer(out, plan, piece_bytes=1 << 16, **settings)


def test_kill_9_anywhere_then_resume_gives_the_same_losses(tmp_path):
    """Killed twice at unplanned moments; what it had logged and logs after is the whole run."""
    root = Path(__file__).parents[3]
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "cut")], cwd=root)
        deadline = time.monotonic() + 120
        while len(checkpoints(tmp_path / "cut")) < 2:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        before = checkpoints(tmp_path / "cut")[-1]
        while checkpoints(tmp_path / "cut")[-1] == before:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(random.random() * 0.3)  # in a step, or while a checkpoint is written
        child.kill()
        child.wait()
    torch.set_num_threads(1)
    resumed = endless(tmp_path / "cut")
    assert resumed.resume() and resumed.step >= 4
    cut_at(resumed.step + 3, resumed)
    cut_at(resumed.step, endless(tmp_path / "whole"))
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "cut")
    ends = [checkpoints(tmp_path / name)[-1] for name in ("cut", "whole")]
    for path in ends[0].glob("*.safetensors"):
        assert path.read_bytes() == (ends[1] / path.name).read_bytes()
    assert len(list(ends[0].glob("weights-*"))) > 1  # in pieces


def test_time_limit_saves_and_stops(tmp_path):
    trainer = make(tmp_path, steps=1000, max_minutes=0.0, checkpoint_every=5000)
    assert not trainer.run()
    assert trainer.step == 1
    assert len(checkpoints(tmp_path)) == 1


def test_a_second_interrupt_ends_the_run_at_once(tmp_path, caplog):
    trainer = make(tmp_path, steps=9, checkpoint_every=5)
    real, taken = trainer.objective.loss, []

    def interrupted_twice(*arguments):
        taken.append(arguments)
        os.kill(os.getpid(), signal.SIGINT)
        if len(taken) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    def once(*arguments):
        if trainer.step == 3:
            return interrupted_twice(*arguments)
        return real(*arguments)

    trainer.objective.loss = once
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.interrupted and "Ctrl-C again" in caplog.text
    assert trainer.step == 3 and not checkpoints(tmp_path)
    again = make(tmp_path, steps=9, checkpoint_every=5)
    assert not again.resume() and again.complete(lambda record: None)
    assert len(metrics(tmp_path)) == 9


def test_one_process_at_a_time_has_a_folder(tmp_path):
    refused = pytest.raises(UsageError, match="another process is training")
    with claimed(tmp_path / "run"), refused:
        make(tmp_path / "run", steps=2).complete(lambda record: None)
    assert make(tmp_path / "run", steps=2).complete(lambda record: None)


def test_a_fresh_run_has_nothing_to_resume(tmp_path):
    assert not make(tmp_path).resume()


def test_half_written_checkpoints_are_ignored(tmp_path):
    make(tmp_path, steps=3).run()
    (tmp_path / "checkpoints" / "step-0000009.part").mkdir()
    trainer = make(tmp_path, steps=3)
    assert trainer.resume() and trainer.step == 3
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(checkpoints(tmp_path)) == 2


FILES = [f"{kind}-00001.safetensors" for kind in ("weights", "optimizer", "objective", "routes")]


@pytest.mark.parametrize("file", [*FILES, "state.json"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path, file, caplog):
    make(tmp_path / "whole", steps=4).run()
    cut_at(3, make(tmp_path / "cut", steps=4))
    damaged = checkpoints(tmp_path / "cut")[-1]
    content = bytearray((damaged / file).read_bytes())
    content[len(content) // 2] ^= 255  # a flipped byte, which a reader of the format may not see
    (damaged / file).write_bytes(content)
    trainer = make(tmp_path / "cut", steps=4)
    with caplog.at_level(logging.WARNING, "dsv4.training"):
        assert trainer.resume() and trainer.step == 2
    assert damaged.name in caplog.text
    assert (damaged.parent / f"{damaged.name}.damaged").is_dir()
    trainer.run()
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_a_run_with_nothing_but_damage_is_refused(tmp_path):
    make(tmp_path, steps=2).run()
    for path in checkpoints(tmp_path):
        (path / "state.json").unlink()
    log = (tmp_path / "metrics.jsonl").read_bytes()
    for _ in range(2):  # the second time nothing is left to be set aside
        with pytest.raises(CheckpointError, match="damaged") as error:
            make(tmp_path, steps=2).resume()
        assert "another folder" in error.value.hint
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_a_disk_that_does_not_answer_is_no_damage(tmp_path, monkeypatch):
    make(tmp_path, steps=2).run()
    before = checkpoints(tmp_path)

    def unreadable(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr("dsv4.training.pieces.checksum", unreadable)
        make(tmp_path, steps=2).resume()
    assert checkpoints(tmp_path) == before


def test_the_same_step_can_be_damaged_twice(tmp_path):
    for _ in range(2):
        trainer = make(tmp_path, steps=3)
        trainer.resume()
        trainer.run()
        (checkpoints(tmp_path)[-1] / "state.json").write_text("{")
    assert make(tmp_path, steps=3).resume()


def test_a_run_from_other_weights_or_with_fewer_steps_is_refused(tmp_path):
    make(tmp_path, steps=3).run()
    other = make(tmp_path, steps=3)
    with torch.no_grad():
        other.model.head.weight[0, 0] += 1
    other = Trainer(other.model, CONFIG, other.objective, other.settings)
    with pytest.raises(CheckpointError, match="began with other weights"):
        other.resume()
    with pytest.raises(CheckpointError, match=r"after step 3, which has 2 here"):
        make(tmp_path, steps=2).resume()
    assert make(tmp_path, steps=4).resume()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    make(tmp_path, steps=2).run()
    trainer = make(tmp_path, steps=2)
    trainer.model.head = torch.nn.Linear(32, 65, bias=False)
    with pytest.raises(CheckpointError, match="another model"):
        trainer.resume()


def test_gradients_are_clipped(tmp_path):
    """With a clip of nearly nothing the first AdamW step is unchanged, momentum is tiny."""
    trainer = make(tmp_path, steps=1, clip=1e-3)
    trainer.run()
    total = sum(float(t.square().sum()) for t in trainer.optimizer.muon.momenta.values())
    total += sum(float((t * 10).square().sum()) for t in trainer.optimizer.adamw.first.values())
    assert total**0.5 == pytest.approx(1e-3, rel=1e-2)
