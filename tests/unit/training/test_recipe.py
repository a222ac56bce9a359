"""The recipe of the bundled model: settings that fit together, readable by `dsv4 train`."""

import runpy
from pathlib import Path

from dsv4.config import preset
from dsv4.training import TrainConfig

RECIPE = Path(__file__).parents[3] / "recipes" / "nano_cpu.py"


def test_recipe_gives_a_consistent_run(tmp_path):
    module = runpy.run_path(str(RECIPE))
    plan = module["config"](tmp_path / "corpora", tmp_path / "run", tmp_path / "heldout")
    assert isinstance(plan, TrainConfig) and plan.model == preset("nano")
    names = [source.name for source in plan.sources]
    assert len(set(names)) == len(names)  # each has its own shard
    assert all(source.licence and source.epochs > 0 for source in plan.sources)
    assert plan.schedule.warmup < plan.schedule.decay_start < plan.schedule.steps
    assert plan.batch_tokens % plan.max_length == 0
    assert not {s.files for s in plan.heldout} & {s.files for s in plan.sources}
    assert module["config"](tmp_path, tmp_path).heldout == ()
