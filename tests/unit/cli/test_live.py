"""What a run shows while it goes on."""

import pytest
from rich.console import Console

from dsv4.cli.live import LiveView, curve, duration
from dsv4.cli.training import following

STEP = {
    "step": 10,
    "tokens": 5000,
    "loss": 3.25,
    "lr": 1e-3,
    "grad_norm": 0.5,
    "reward": 0.75,
    "seconds": 0.1,
    "tokens_per_second": 4321.0,
    "regime": "sparse, rows up to 512",
    "max_activation": {"0": 1.5, "1": 22.0},
    "layer_overload": {"1": 1.25},
}
EVENT = {"event": "spike", "at": 14, "step": 8, "loss": 9.0, "recoveries": 1}


def drawn(view):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(view)
        return console.export_text()


def test_the_view_tells_everything_the_records_do():
    view = LiveView(40, ("reward",))
    assert "step 0/40" in drawn(view)
    view.record({**STEP, "step": 9, "loss": 4.5, "validation_loss": 3.5})
    view.record(STEP)
    view.record(EVENT)
    text = drawn(view)
    for told in ("step 10/40", "sparse, rows up to 512", "3.250", "3.500", "4321", "1.00e-03",
                 "0.50", "0.75", "22", "1.25", "1 spikes undone", "█▁"):  # fmt: skip
        assert told in text, told


def test_a_phase_without_a_language_loss_can_be_shown():
    view = LiveView(40, ("indexer_loss",))
    view.record({"step": 1, "indexer_loss": 0.5, "lr": 1e-3, "grad_norm": 1.0,
                 "tokens_per_second": 1.0})  # fmt: skip
    assert "0.5" in drawn(view)


def test_curves_and_times():
    assert curve([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert curve([2.0]) == "▁"
    assert len(curve([1.0] * 1000)) == 60
    assert [duration(s) for s in (None, 45, 600, 7200)] == ["?", "45 s", "10 min", "2.0 h"]


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr("dsv4.cli.training.SHOW_SECONDS", 0.0)
    with following(10, "reward") as report:
        report(STEP)
        report(EVENT)
    shown = capsys.readouterr().err
    assert "step 10/10  loss 3.25  reward 0.75  4321 tokens/s  0 s left" in shown
    assert "step 14: the loss went to 9.0; going on from step 8" in shown


def test_lines_after_a_spike_that_led_back_before_the_first_step(capsys, monkeypatch):
    monkeypatch.setattr("dsv4.cli.training.SHOW_SECONDS", 0.0)
    with following(20) as report:
        for record in ({**STEP, "step": 15}, EVENT, *({**STEP, "step": s} for s in range(9, 16))):
            report(record)
    shown = capsys.readouterr().err
    assert all(f"step {step}/20" in shown for step in range(9, 16))
    assert "-" not in shown


def test_live_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with following(10, "reward") as report:
        report(STEP)
        report(EVENT)
    assert "going on from step 8" in capsys.readouterr().err


@pytest.mark.parametrize("record", [STEP, EVENT])
def test_other_processes_say_nothing(record, capsys, monkeypatch):
    monkeypatch.setattr("dsv4.parallel.rank", lambda: 1)
    with following(10) as report:
        report(record)
    assert capsys.readouterr().err == ""
