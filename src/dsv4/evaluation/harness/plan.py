"""Which commands a harness is run by, so that they can be shown, checked and carried out.

Inspect is on PyPI and an extra of this package (`dsv4[harness]`). SWE-bench and Terminal-Bench have
harnesses of their own, which start containers and are installed as their authors say.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dsv4.errors import UsageError
from dsv4.evaluation.harness.relay import KEY

SWE_BENCH, TERMINAL_BENCH = "swe-bench", "terminal-bench"
SWE_BENCH_SETS = {"verified": "SWE-bench/SWE-bench_Verified"}
TERMINAL_BENCH_SET = "terminal-bench@2.0"


@dataclass(frozen=True)
class Step:
    """One command. env: variables it gets besides ours. modules, programs: what has to be there."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """What this machine has not got."""
        modules = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return modules + [name for name in self.programs if shutil.which(name) is None]

    def __str__(self) -> str:
        """As it could be typed."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join((*variables, shlex.join(self.command)))


@dataclass(frozen=True)
class Plan:
    """The commands of a harness, one after the other. hint: how to install what is missing.
    results: the file or folder to read them from."""

    name: str
    steps: tuple[Step, ...]
    hint: str
    results: Path

    def check(self) -> None:
        """Raises UsageError if something is missing."""
        missing = dict.fromkeys(name for step in self.steps for name in step.missing())
        if missing:
            raise UsageError(f"{self.name} needs {', '.join(missing)}", self.hint)


def plan(
    names: tuple[str, ...], url: str, model: str, folder: Path, together: int, limit: int | None
) -> Plan:
    """How to run what `names` are: tasks of Inspect, or one harness by its name.

    url: of the relay. folder: for what the harness writes. limit: items; None: all.
    """
    if names == (SWE_BENCH,):
        return _swe_bench(url, model, folder, together, limit)
    if names == (TERMINAL_BENCH,):
        return _terminal_bench(url, model, folder, together, limit)
    if SWE_BENCH in names or TERMINAL_BENCH in names:
        raise UsageError("one harness at a time", f"--harness {SWE_BENCH} alone")
    return _inspect(names, url, model, folder, together, limit)


def _inspect(
    tasks: tuple[str, ...], url: str, model: str, folder: Path, together: int, limit: int | None
) -> Plan:
    command = [
        sys.executable, "-m", "inspect_ai", "eval", *tasks,
        "--model", f"openai-api/dsv4/{model}",
        "--model-base-url", url,
        "--log-dir", str(folder),
        "--log-format", "json",
        "--max-connections", str(together),
        "--display", "plain",
    ]  # fmt: skip
    if limit is not None:
        command += ["--limit", str(limit)]
    packages = sorted({task.partition("/")[0] for task in tasks if _is_packaged(task)})
    step = Step(
        tuple(command),
        {"DSV4_API_KEY": KEY},
        modules=("inspect_ai", "openai", *packages),
    )
    install = " ".join(["dsv4[harness]", *(name.replace("_", "-") for name in packages)])
    return Plan("inspect", (step,), f"pip install '{install}'", folder)


def _is_packaged(task: str) -> bool:
    """inspect_evals/gpqa_diamond, not a file of the user's."""
    return "/" in task and ".py" not in task and not os.path.exists(task)


def _swe_bench(url: str, model: str, folder: Path, together: int, limit: int | None) -> Plan:
    """Patches by mini-SWE-agent, whose calls go through litellm; then the official tests."""
    write = [
        "mini-extra", "swebench",
        "--subset", "verified",
        "--split", "test",
        "--model", f"openai/{model}",
        "--output", str(folder),
        "--workers", str(together),
        "--config", "swebench.yaml",
        "--config", f"model.model_kwargs.api_base={url}",
    ]  # fmt: skip
    if limit is not None:
        write += ["--slice", f"0:{limit}"]
    test = (
        sys.executable, "-m", "swebench.harness.run_evaluation",
        "--dataset_name", SWE_BENCH_SETS["verified"],
        "--split", "test",
        "--predictions_path", str(folder / "preds.json"),
        "--max_workers", str(together),
        "--run_id", "dsv4",
        "--report_dir", str(folder),
    )  # fmt: skip
    env = {"OPENAI_API_KEY": KEY, "MSWEA_COST_TRACKING": "ignore_errors"}
    steps = (
        Step(tuple(write), env, programs=("mini-extra", "docker")),
        Step(test, modules=("swebench",), programs=("docker",)),
    )
    return Plan(SWE_BENCH, steps, "pip install mini-swe-agent swebench, and Docker", folder)


def _terminal_bench(url: str, model: str, folder: Path, together: int, limit: int | None) -> Plan:
    """Terminal-Bench 2 by Harbor with its own agent, whose calls go through litellm."""
    command = [
        "harbor", "run",
        "--dataset", TERMINAL_BENCH_SET,
        "--agent", "terminus-2",
        "--model", f"openai/{model}",
        "--agent-kwarg", f"api_base={url}",
        "--n-concurrent", str(together),
        "--jobs-dir", str(folder),
        "--job-name", "dsv4",
    ]  # fmt: skip
    if limit is not None:
        command += ["--n-tasks", str(limit)]
    step = Step(tuple(command), {"OPENAI_API_KEY": KEY}, programs=("harbor", "docker"))
    hint = "uv tool install harbor (it needs Python 3.12), and Docker"
    return Plan(TERMINAL_BENCH, (step,), hint, folder / "dsv4")
