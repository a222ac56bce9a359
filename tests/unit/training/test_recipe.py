"""The recipe of the bundled model: settings that fit together, readable by `dsv4 train`."""

import runpy
from pathlib import Path

from dsv4.presets import preset
from dsv4.training import TrainConfig

RECIPE = Path(__file__).parents[3] / "recipes" / "nano_cpu.py"


def test_recipe_gives_a_consistent_run(tmp_path):
    module = runpy.run_path(str(RECIPE))
    corpora = tmp_path / "corpora"
    assert module["config"](corpora, tmp_path / "run").heldout == ()
    (tmp_path / "eval").mkdir()
    plan = module["config"](corpora, tmp_path / "run")
    assert isinstance(plan, TrainConfig)
    assert plan.model == preset("nano")
    names = [source.name for source in plan.sources]
    assert len(set(names)) == len(names)  # each has its own shard
    assert all(source.licence and source.epochs > 0 for source in plan.sources)
    assert plan.schedule.warmup < plan.schedule.decay_start < plan.schedule.steps
    assert plan.batch_tokens % plan.max_length == 0
    assert plan.heldout
    assert not {s.files for s in plan.heldout} & {s.files for s in plan.sources}
