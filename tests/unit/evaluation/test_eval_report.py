"""Results on disk, as tables and in a model card; the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dsv4.cli.main import main
from dsv4.errors import DataError, UsageError
from dsv4.evaluation import report
from dsv4.evaluation.benchmark import Result, Row
from dsv4.evaluation.report import BEGIN, END, Report

ABOUT = {
    "model": "m",
    "fingerprint": "f",
    "version": "1",
    "command": "dsv4 eval m",
    "numerics": "fast",
    "machine": "a machine",
}
NAN = float("nan")


def _bits(name: str, value: float) -> Result:
    rows = (
        Row("books", "bits per byte", 3, value, value - 0.1, value + 0.1),
        Row("books", "nats per token", 3, 9.0, 8.0, 10.0),
        Row("one", "bits per byte", 1, 1.0, NAN, NAN),
        Row("part", "bits per byte", 1, 4.0, NAN, NAN, detail=True),
    )
    return Result(name, "--data DATA", 4, 1.0, rows)


def _report() -> Report:
    infill = Result("infill", "--limit 4", 4, 2.5, (Row("infill", "right", 4, 0.5, 0.15, 0.85),))
    sample = {"id": "0", "group": "greedy", "prompt": "Who?", "text": "I.\nMe", "ended": False}
    newcomer = Result("newcomer", "--limit 4", 1, 1.0, (), (sample,))
    results = [_bits("text", 2.0), _bits("text-bigram", 3.0), infill, newcomer]
    return Report(ABOUT, {result.name: result for result in results})


def test_tables_hold_the_numbers() -> None:
    shown = report.markdown(_report(), {"pretrained": Report(ABOUT, {"text": _bits("text", 2.5)})})
    assert "|  | documents | pretrained | model | bigram |" in shown
    assert (
        "| books | 3 | 2.500 (2.400 to 2.600) | 2.000 (1.900 to 2.100) | 3.000 (2.900 to 3.100) |"
        in shown
    )
    assert "| one | 1 | 1.000 | 1.000 | 1.000 |" in shown  # one document has no interval
    before, _, folded = shown.partition("<details>")
    assert "| part |" not in before and "| part | 1 | 4.000 |" in folded.partition("</details>")[0]
    assert "| infill | 4 | 50.0 % (15.0 to 85.0) |" in shown
    assert "**Who?** (greedy)\n\n> I.\n> Me ..." in shown
    assert "    dsv4 eval m --data DATA --only text,text-bigram\n" in shown
    assert "    dsv4 eval m --limit 4 --only infill,newcomer\n" in shown


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    made = _report()
    path = made.save(tmp_path)
    read = report.read(tmp_path)
    assert report.markdown(read) == report.markdown(made)
    json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)  # no NaN in JSON
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    for wrong in (tmp_path / "other.json", tmp_path / "none"):
        with pytest.raises(DataError):
            report.read(wrong)


def test_new_results_join_those_of_the_same_model(tmp_path: Path) -> None:
    _report().save(tmp_path)
    new = Result("infill", "", 9, 1.0, ())
    joined = report.merged(tmp_path, ABOUT, [new])
    assert list(joined.results) == ["text", "text-bigram", "infill", "newcomer"]
    assert joined.results["infill"] == new
    other = report.merged(tmp_path, {**ABOUT, "fingerprint": "g"}, [new])
    assert list(other.results) == ["infill"]


def test_a_card_changes_between_its_marks_alone(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"# m\n{BEGIN}\nold\n{END}\nmore\n", encoding="utf-8")
    report.write_card(card, "new\n")
    report.write_card(card, "newer\n")
    assert card.read_text(encoding="utf-8") == f"# m\n{BEGIN}\nnewer\n{END}\nmore\n"
    card.write_text(f"# m\n{END}\n{BEGIN}\n", encoding="utf-8")
    for path in (card, tmp_path / "none.md"):
        with pytest.raises(UsageError):
            report.write_card(path, "new\n")
    assert card.read_text(encoding="utf-8") == f"# m\n{END}\n{BEGIN}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Callable[..., int]:
    """run(option, ...) -> exit code of `dsv4 eval` for the tiny model."""
    monkeypatch.chdir(tmp_path)
    return lambda *options: main(["eval", str(tiny_folder), "--threads", "1", *options])


def test_the_command_writes_results_and_card(
    run: Callable[..., int],
    tmp_path: Path,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    assert run("--only", "infill", "--limit", "2", "--card", str(card)) == 0
    shown = capsys.readouterr()
    assert "infill: 2 items" in shown.err
    assert shown.out.strip() in card.read_text(encoding="utf-8")
    assert f"dsv4 eval {tiny_folder} --limit 2" in shown.out
    stored = json.loads((tmp_path / "eval/tiny/results.json").read_text(encoding="utf-8"))
    assert stored["benchmarks"]["infill"]["rows"][0]["count"] == 2
    records = (tmp_path / "eval/tiny/infill.jsonl").read_bytes()
    assert run("--only", "infill", "--limit", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out) == stored
    assert (tmp_path / "eval/tiny/infill.jsonl").read_bytes() == records  # nothing asked again
    assert run("--only", "infill", "--limit", "2", "--numerics", "exact") == 2
    assert "another model" in capsys.readouterr().err


def test_a_card_is_written_with_results_alone(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"{BEGIN}\nold\n{END}\n", encoding="utf-8")
    nothing = ("--only", "needle", "--lengths", "100000", "--out", "out", "--card", str(card))
    assert run(*nothing) == 2
    shown = capsys.readouterr()
    assert "needle: left out" in shown.err and "nothing was asked" in shown.err
    assert not shown.out and "\nold\n" in card.read_text(encoding="utf-8")
    assert run("--only", "infill", "--limit", "1", "--out", "out") == 0
    assert run(*nothing) == 0  # from what is in --out
    assert "| infill | 1 |" in card.read_text(encoding="utf-8")
    assert "Needle" not in card.read_text(encoding="utf-8")


def test_models_of_training_runs_are_told_apart(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for model, name, typed in (
        ("one/model", "one-model", "one/model"),
        ("run 2/model", "run 2-model", "'run 2/model'"),
    ):
        shutil.copytree(tiny_folder, model)
        assert main(["eval", model, "--threads", "1", "--only", "infill", "--limit", "1"]) == 0
        assert f"    dsv4 eval {typed} --limit 1\n" in capsys.readouterr().out
        assert report.read(tmp_path / "eval" / name).about["model"] == name


def test_mistakes_are_told_before_anything_runs(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for options, said in (
        (("--only", "winogrande"), "no benchmark 'winogrande'"),
        (("--stage", "first"), "LABEL=FOLDER"),
        (("--stage", "first=none"), "cannot read"),
        (("--card", "none.md"), "cannot read none.md"),
        (("--only", "infill,blimp"), "blimp needs --data"),
        (("--only", "text-bigram"), "text-bigram needs --data and --corpora"),
        (("--data", "none"), "--data none"),
        (("--corpora", "none"), "--corpora none"),
    ):
        assert run(*options) != 0
        assert said in capsys.readouterr().err
    assert main(["eval", "no-model", "--only", "blimp"]) == 2  # before it is looked for
    assert "blimp needs --data" in capsys.readouterr().err
    assert main(["eval", "http://127.0.0.1:9/v1"]) == 2
    assert "--served" in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()
