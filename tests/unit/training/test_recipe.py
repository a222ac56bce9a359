"""The recipes of the bundled model: settings that fit together."""

import argparse
import importlib
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4.presets import preset

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts import what lies beside them."""
    monkeypatch.syspath_prepend(str(RECIPES))
    yield
    for name in [n for n in sys.modules if n.startswith(("nano_", "experiments"))]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["nano_cpu", "nano_gpu"])
def test_a_scale_is_a_consistent_run(name):
    scale = runpy.run_path(str(RECIPES / f"{name}.py"))["SCALE"]
    assert scale.model.engram is not None
    for schedule in (scale.pretrain, scale.tune, scale.copies, scale.copy):
        assert 0 < schedule.warmup < schedule.steps
    assert scale.tune.indexer_steps > 0
    assert all(scale.batch_tokens % length == 0 for length in scale.lengths)
    assert all(length <= scale.lengths[0] for _, length in scale.pretrain.lengths)


def test_the_gpus_scale_is_the_preset():
    assert runpy.run_path(str(RECIPES / "nano_gpu.py"))["SCALE"].model == preset("nano")


def test_all_but_the_first_two_stages_run_where_there_is_no_gpu(tmp_path):
    scale = runpy.run_path(str(RECIPES / "nano_gpu.py"))["SCALE"]
    stages = importlib.import_module("nano_stages")
    args = argparse.Namespace(out=tmp_path, corpora=tmp_path, precision="float32", max_minutes=None)
    assert stages._texts(scale, args).device == "cuda"
    assert stages._conversations(scale, args).device == "cuda"
    assert {stages._copies(name, scale, args).device for name in ("copy-1", "copy")} == {"cpu"}


def test_what_is_wrong_is_said_in_a_line(tmp_path, capsys, monkeypatch):
    arguments = [str(tmp_path / "run"), "--corpora", str(tmp_path), "--prepare"]
    monkeypatch.setattr(sys, "argv", ["nano_gpu.py", *arguments])
    with pytest.raises(SystemExit):
        runpy.run_path(str(RECIPES / "nano_gpu.py"), run_name="__main__")
    assert "error: no file matches" in capsys.readouterr().err


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_sources_of_a_mix_have_shards_of_their_own_and_none_is_held_out(scale):
    mix = runpy.run_path(str(RECIPES / "nano_mix.py"))
    tuned = mix["tuning"](scale, 4096)
    calls = runpy.run_path(str(RECIPES / "nano_calls.py"))["mix"](1)
    for sources in (mix["pretraining"](scale), tuned, mix["copying"](scale, 1024), calls):
        names = [source.name for source in sources]
        assert len(set(names)) == len(names)
        assert all(source.licence and source.epochs > 0 for source in sources)
        assert all(source.split != "heldout" for source in sources)
        assert not {s.files for s in mix["HELDOUT"]} & {s.files for s in sources}


def test_the_copies_read_as_much_of_the_rest_at_every_scale():
    copying = runpy.run_path(str(RECIPES / "nano_mix.py"))["copying"]
    small, large = ({s.name: s.count for s in copying(scale, 1024)} for scale in (1.0, 6.0))
    less = {s.name: s.count for s in copying(6.0, 1024, rest=0.07)}
    assert less["task_arithmetic"] == pytest.approx(large["task_arithmetic"] / 10, abs=1)
    for name in ("task_arithmetic", "task_infill", "task_repeat", "task_everyday_tool"):
        assert small[name] == pytest.approx(large[name], abs=1)


def test_runs_on_calls_differ_in_their_problems_alone():
    made = runpy.run_path(str(RECIPES / "nano_calls.py"))
    one, two = made["mix"](1), made["mix"](2)
    differing = {a.name for a, b in zip(one, two, strict=True) if a != b}
    assert differing == {f"task_{name}" for name in made["CALLS"]}
    assert all(replace(a, seed=b.seed) == b for a, b in zip(one, two, strict=True))


def test_arms_of_the_experiments_differ_from_their_partners():
    arms = runpy.run_path(str(RECIPES / "experiments.py"))["ARMS"]
    for name, arm in arms.items():
        partner = arms[arm.partner]
        changed = [
            key
            for key in ("model", "optimizer", "lr", "mtp", "prepare")
            if getattr(arm, key) != getattr(partner, key)
        ]
        assert bool(changed) == (name != arm.partner)
