"""The experiments over the parts of V4: prepared, run in processes, compared."""

import json
import lzma
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch
from tests.unit.training.unlucky import double

from dsv4.tasks.words import invent

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts import what lies beside them, in processes of their own too."""
    monkeypatch.syspath_prepend(str(RECIPES))
    yield
    for name in [name for name in sys.modules if name.startswith("experiments")]:
        del sys.modules[name]


def in_a_process(*arguments):
    command = [sys.executable, str(RECIPES / "experiments.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder that runs can start from, made from very short tales."""
    corpora = tmp_path_factory.mktemp("corpora")
    (corpora / "synth_instruct").mkdir()
    with lzma.open(corpora / "synth_instruct" / "tales.jsonl.xz", "wt", encoding="utf-8") as file:
        for i in range(400):
            words = [invent(Random(f"{i}/{n}"), 2) for n in range(60)]
            record = {"id": i, "kind": "child", "text": " ".join(words)}
            file.write(json.dumps(record) + "\n")
    out = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        import experiments

        arguments = ("prepare", str(out), "--corpora", str(corpora), "--lists", "60")
        assert experiments.main(arguments) == 0
    return out


@pytest.fixture
def out(prepared, tmp_path):
    """A copy of it, without the corpora."""
    folder = tmp_path / "out"
    folder.mkdir()
    for path in prepared.iterdir():
        os.symlink(path, folder / path.name)
    return folder


def keep_few_needles(out):
    """Those of a run take longer than its two steps."""
    contents = json.loads((out / "prepared.json").read_text())
    contents["needles"] = {name: items[:1] for name, items in contents["needles"].items()}
    (out / "prepared.json").unlink()
    (out / "prepared.json").write_text(json.dumps(contents))


def test_runs_are_made_once_and_compared(out, tmp_path, capsys):
    keep_few_needles(out)
    arms = ("--arms", "base", "residual", "--seeds", 1, "--jobs", 2)
    sizes = ("--steps", 2, "--batch-tokens", 512)
    done = in_a_process("run", out, *arms, *sizes)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert sorted(result["arm"] for result in results) == ["base", "residual"]
    for result in results:
        curve = json.loads((out / "curves" / f"{result['arm']}-0.json").read_text())
        assert len(curve["loss"]) == len(curve["tokens"]) == 2
        assert curve["heldout_loss"][-1] == pytest.approx(result["loss"], abs=1e-4)
        assert all(map(math.isfinite, curve["loss"]))
    import experiments

    again = ("run", str(out), *map(str, arms))
    assert experiments.main(again) == 0
    assert len((out / "results.jsonl").read_text().splitlines()) == 2
    assert experiments.main((*again, "--seeds", "2", "--steps", "3")) == 1
    assert "take another folder" in capsys.readouterr().err
    assert experiments.main(("table", str(out))) == 0
    loss = {result["arm"]: result["loss"] for result in results}
    gap = loss["residual"] - loss["base"]
    assert f"{gap:+.3f} (one seed)" in capsys.readouterr().out
    assert experiments.main(("plot", str(out), str(tmp_path / "parts.png"))) == 0
    assert (tmp_path / "parts.png").read_bytes().startswith(b"\x89PNG")


def test_runs_need_the_shards_that_were_prepared(out, prepared):
    from experiments_data import load

    from dsv4.errors import DataError

    assert len(load(out).mix) == 2
    contents = json.loads((prepared / "prepared.json").read_text())
    contents["digests"]["lists.tokens.npy"] = "0" * 64
    (out / "prepared.json").unlink()
    (out / "prepared.json").write_text(json.dumps(contents))
    with pytest.raises(DataError, match="other shards"):
        load(out)


def test_values_of_a_needle_are_where_it_says(out):
    from experiments_data import NEEDLES, load

    from dsv4.encoding.tokenizer import Tokenizer
    from dsv4.tasks.words import COLOURS

    tokenizer = Tokenizer.from_file(out / "tokenizer.json")
    for name, needles in load(out).needles.items():
        count, pairs = NEEDLES[name]
        assert len(needles) == count
        for needle in needles[:3]:
            assert len(needle.answers) == pairs
            found = [tokenizer.decode(needle.ids[p : p + n]).strip() for p, n in needle.answers]
            assert set(found) <= set(COLOURS)
            words = tokenizer.decode(needle.ids[1:]).split()
            assert len(words) == 1 + 4 * pairs
            told = dict(zip(words[1 : 2 * pairs : 2], words[2 : 2 * pairs + 1 : 2], strict=True))
            asked = words[2 * pairs + 1 :: 2]
            assert [f"{value}," for value in found] == [told[key] for key in asked]


def test_of_lists_only_values_are_learned(out):
    from experiments_data import PAIRS_OF_A_LIST, load

    from dsv4.encoding.tokenizer import Tokenizer
    from dsv4.tasks.words import COLOURS

    tokenizer = Tokenizer.from_file(out / "tokenizer.json")
    lists = load(out).mix[1]
    assert lists.name == "lists"
    for start, end in zip(lists.offsets[:3].tolist(), lists.offsets[1:4].tolist(), strict=True):
        learned = lists.tokens[start:end][lists.mask(start, end - start)].tolist()
        words = [tokenizer.decode([token]).strip() for token in learned]
        assert len(words) == PAIRS_OF_A_LIST and set(words) <= set(COLOURS)


class Copyist:
    """A model that says what the list said: after a key, the token after its first place."""

    def __init__(self, wrong=False):
        self.embed = torch.nn.Embedding(1, 1)
        self.wrong = wrong

    def __call__(self, ids_BT):
        from types import SimpleNamespace

        logits = torch.zeros(*ids_BT.shape, 2048)
        for row, ids in enumerate(ids_BT.tolist()):
            for place, token in enumerate(ids):
                first = ids.index(token)
                said = ids[first + 1] if first < place else 0
                logits[row, place, said + self.wrong] = 1
        return SimpleNamespace(logits_BTV=logits)


def test_needles_are_found_by_who_looks_back(out):
    from experiments_data import load
    from experiments_run import needle_accuracy

    near = load(out).needles["near"]
    shortest = min(len(needle.ids) for needle in near)  # whose keys are one token each
    near = [needle for needle in near if len(needle.ids) <= shortest]
    assert len(near) > 1
    assert needle_accuracy(Copyist(), near, 256) == 1
    assert needle_accuracy(Copyist(wrong=True), near, 256) == 0


def test_a_task_that_fails_takes_nothing_else_along():
    from experiments_pool import Pool

    with Pool(double, 2) as pool:
        outcomes = {o.task: o for o in pool.outcomes([1, 13, 2, 14, 3, 4])}
        assert {n: o.result for n, o in outcomes.items()} == {
            1: 2, 2: 4, 3: 6, 4: 8, 13: None, 14: None,
        }  # fmt: skip
        assert "unlucky" in outcomes[13].error
        assert "exit code 3" in outcomes[14].error


def test_after_its_time_a_pool_begins_nothing_and_ends_what_runs():
    from experiments_pool import Pool

    with Pool(double, 1) as pool:
        assert list(pool.outcomes([1], until=time.monotonic() - 1)) == []
        kill = time.monotonic() + 3
        (outcome,) = pool.outcomes([15, 1], until=kill, kill=kill)
        assert (outcome.task, outcome.error) == (15, "ended: out of time")


def test_steps_fit_into_what_is_left():
    from experiments import SHARE, fitting_steps

    from dsv4.errors import Dsv4Error

    # Two processes: one does 2 and 2 s per step, the other 1 and 3.
    assert fitting_steps([2, 1, 3, 2], 2, 400 / SHARE) == 100
    with pytest.raises(Dsv4Error, match="fit into the time"):
        fitting_steps([2.0], 1, 1)


def test_a_difference_is_told_with_its_interval():
    from experiments_table import difference

    def runs(arm, losses):
        return {seed: {"arm": arm, "loss": loss} for seed, loss in enumerate(losses)}

    arms = {"base": runs("base", [2.0, 2.1, 2.2]), "adamw": runs("adamw", [2.1, 2.2, 2.33])}
    gap = difference(arms, "adamw", "loss")
    assert gap.mean == pytest.approx(0.11)
    assert gap.half == pytest.approx(4.303 * 0.01732 / math.sqrt(3), rel=1e-3)
    assert gap.significant
    arms["adamw"] = runs("adamw", [2.1, 2.0, 2.3])
    assert not difference(arms, "adamw", "loss").significant
    assert difference(arms, "base", "loss") is None


def test_how_likely_a_difference_is_by_chance():
    from experiments_table import holding, student

    # Tables of Student's distribution: 95 % and 99 % two-sided.
    assert student(4.3027, 2) == pytest.approx(0.05, abs=1e-5)
    assert student(-2.3646, 7) == pytest.approx(0.05, abs=1e-5)
    assert student(63.657, 1) == pytest.approx(0.01, abs=1e-5)

    def runs(arm, losses):
        return {seed: {"arm": arm, "loss": loss} for seed, loss in enumerate(losses)}

    def arms(*names):
        base = {"base": runs("base", [2.0, 2.0, 2.0])}
        return base | {name: runs(name, losses[name]) for name in names}

    # p = 0.0002, 0.031 and 0.79: the second holds beside one other (0.05 / 1), not beside two.
    losses = {"adamw": [3.0, 3.02, 2.97], "no-mtp": [2.1, 2.12, 2.18], "residual": [2.1, 1.9, 2.05]}
    assert holding(arms("adamw", "no-mtp"), "loss") == {"adamw", "no-mtp"}
    assert holding(arms("adamw", "no-mtp", "residual"), "loss") == {"adamw"}
