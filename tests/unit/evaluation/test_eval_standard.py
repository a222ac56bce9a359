"""Public benchmarks: right answers are right, wrong ones wrong, and samples grow without change."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dsv4.encoding.events import Reply
from dsv4.encoding.messages import ToolCall
from dsv4.errors import DataError
from dsv4.evaluation.benchmark import Settings
from dsv4.evaluation.benchmarks.catalogue import BENCHMARKS
from dsv4.evaluation.question import Chat, Item, Said
from dsv4.evaluation.standard import contest
from dsv4.evaluation.standard.calls import matches
from dsv4.evaluation.standard.choice import LETTERS
from dsv4.evaluation.standard.programs import code
from dsv4.evaluation.standard.question import final
from dsv4.evaluation.standard.records import BUNDLED, bundled, digest, read

NOBODY: Any = None
"""These benchmarks do not look at who is asked."""

BUNDLED_SETS = ("mmlu", "hellaswag", "gsm8k", "bbh", "humaneval", "mbpp", "bfcl")


def _items(name: str, **settings: Any) -> list[Item]:
    return list(BENCHMARKS[name].items(Settings(**settings), NOBODY))


def _right(item: Item, text: str, *calls: ToolCall, finished: bool = True) -> bool:
    return item.grade(Said(text, Reply(None, text, calls), finished))["right"] == 1


def _by_digest(name: str) -> dict[str, Mapping[str, Any]]:
    return {digest(record): record for record in read(Settings(), name)}


@pytest.mark.parametrize("name", BUNDLED_SETS)
def test_bundled_sets_are_asked(name: str) -> None:
    made = _items(name)
    assert len({item.id for item in made}) == len(made) >= 160
    assert not any(_right(item, "") for item in made[:3]) or name == "bfcl"
    both = _items(name, limit=2, efforts=("off", "high"), answer_tokens=77, temperature=0.5)
    assert {item.group.partition(", ")[0] for item in both} == {"no thinking", "high"}
    question = both[1].question
    assert isinstance(question, Chat) and question.sampling.temperature == 0.5
    assert (question.effort, question.max_tokens) == ("high", 77)


def test_more_questions_are_the_same_and_others(tmp_path: Path) -> None:
    few, more = _items("gsm8k", limit=5), _items("gsm8k", limit=9)
    assert [item.digest for item in more[:5]] == [item.digest for item in few]
    # A whole set begins with what is bundled, however its file is ordered.
    records = read(Settings(), "gsm8k_test")
    text = "".join(json.dumps(record) + "\n" for record in reversed(records))
    (tmp_path / "gsm8k_test.jsonl").write_text(text, encoding="utf-8")
    whole = _items("gsm8k", limit=9, data=tmp_path)
    assert [item.digest for item in whole] == [item.digest for item in more]
    assert len(_items("mmlu", limit=1)) == 57
    contests = BENCHMARKS["livecodebench"]
    assert contests.missing(Settings(), likelihoods=False) == "--data"
    lacks = contests.missing(Settings(tmp_path), likelihoods=False)
    assert lacks == f"livecodebench.jsonl in {tmp_path}"
    with pytest.raises(DataError, match=r"no livecodebench\.jsonl"):
        _items("livecodebench", data=tmp_path)


def test_choices() -> None:
    for name, key in (("mmlu", "answer"), ("hellaswag", "label")):
        records = _by_digest("mmlu_dev_test" if name == "mmlu" else "hellaswag_val")
        for item in _items(name, limit=1):
            right = LETTERS[records[item.id.partition("/")[0]][key]]
            wrong = LETTERS[(LETTERS.index(right) + 1) % 4]
            for form in ("Answer: {}", "so...\n**Answer: ({})**", "{}", "The answer is {}.",
                         "$\\boxed{{{}}}$"):  # fmt: skip
                assert _right(item, form.format(right)), form
                assert not _right(item, form.format(wrong))
            assert not _right(item, f"Answer: {right}", finished=False)
            assert not _right(item, "Answer: Avocado")


def test_sums() -> None:
    records = _by_digest("gsm8k_test")
    for item in _items("gsm8k", limit=20):
        answer = records[item.id.partition("/")[0]]["answer"]
        right = answer.rpartition("#### ")[2]
        for text in (answer, f"Answer: ${right}.00", f"1 + 2\nAnswer: **{right}** apples"):
            assert _right(item, text), text
        assert not _right(item, f"Answer: {right}1")
        assert not _right(item, "none")


def test_reasoning() -> None:
    records = _by_digest("bbh")
    made = _items("bbh", limit=1)
    assert len(made) == 27
    for item in made:
        target = records[item.id.partition("/")[0]]["target"]
        assert _right(item, f"Let's see. So the answer is {target}.")
        assert not _right(item, "So the answer is something else.")
        assert "canary" not in item.prompt and item.prompt.count("\nA: Let's think") == 4


def test_final_answers() -> None:
    assert final("x\nAnswer: 4\nthen\nThe answer is **5**.") == "5"
    assert final("It is \\boxed{7}. Answer: 8") == "7"
    assert final("one\ntwo.") == "two"
    assert final("") == ""


@pytest.mark.usefixtures("confined")
def test_programs() -> None:
    humaneval = {record["task_id"]: record for record in read(Settings(), "humaneval")}
    for item in _items("humaneval", limit=4):
        record = humaneval[item.id.rpartition("/")[0]]
        solution = record["canonical_solution"]
        assert _right(item, f"Here:\n```python\n{record['prompt']}{solution}```\nDone.")
        assert _right(item, solution)  # what is missing, as a base model writes it
        assert not _right(item, f"```python\n{record['prompt']}    return None\n```")
        # Leaving before the tests passes nothing.
        assert not _right(
            item, f"```python\n{record['prompt']}    pass\nimport os; os._exit(0)\n```"
        )
    mbpp = {str(record["task_id"]): record for record in read(Settings(), "mbpp")}
    for item in _items("mbpp", limit=3):
        record = mbpp[item.id.partition("/")[0]]
        assert _right(item, f"```\n{record['code']}\n```")
        assert not _right(item, "```python\npass\n```")


def test_the_last_block_is_the_program() -> None:
    assert code("a\n```python\nx\n```\nb\n```py\ny = 1\n```\n") == "y = 1\n"
    assert code("```python\nx = 1") == "x = 1"  # cut off
    assert code("x = 1") == "x = 1"


def _contest(folder: Path, **fields: Any) -> list[Item]:
    cases = [{"input": "2 3\n", "output": "5\n", "testtype": "stdin"}]
    record = {
        "question_id": "p1", "question_content": "Add two numbers.", "starter_code": "",
        "public_test_cases": json.dumps(cases), "private_test_cases": "[]", "metadata": "{}",
    } | fields  # fmt: skip
    (folder / "livecodebench.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return _items("livecodebench", data=folder)


def test_contest_problems(tmp_path: Path) -> None:
    hidden = [{"input": "10 20", "output": "30.0", "testtype": "stdin"}]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(hidden)))).decode()
    (item,) = _contest(tmp_path, private_test_cases=packed)
    good = "a, b = map(int, input().split())\nprint(a + b)\nexit()"
    assert _right(item, f"```python\n{good}\n```")
    assert not _right(item, "```python\nprint(5)\n```")  # passes the public test alone
    assert not _right(item, "```python\nraise SystemExit(1)")
    call = [{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]
    (item,) = _contest(
        tmp_path,
        starter_code="class Solution:\n    def add(self, values: List[int], n: int):",
        public_test_cases=json.dumps(call),
        metadata='{"func_name": "add"}',
    )
    body = "class Solution:\n    def add(self, values: List[int], n):\n        "
    assert _right(
        item, f"```python\n{body}print('noise')\n        return [v + n for v in values]\n```"
    )
    assert not _right(item, f"```python\n{body}return values\n```")


def test_packed_tests_run_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    packed = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(DataError, match="no plain value"):
        contest.tests({"question_id": "p", "private_test_cases": packed})
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match="no tests"):
        contest.tests({"public_test_cases": '[{"input": 1}]'})


def test_calls() -> None:
    wanted = [{"area.of": {"base": [10, 11], "unit": ["Sq. m", ""], "at": [{"x": [1.0]}, ""]}}]
    assert matches([("area_of", {"base": 11})], wanted)
    assert matches([("area_of", {"base": 10.0, "unit": "sq m", "at": {"x": 1}})], wanted)
    for made in (
        [],
        [("area_of", {})],
        [("area", {"base": 10})],
        [("area_of", {"base": 12})],
        [("area_of", {"base": "10"})],
        [("area_of", {"base": 10, "more": 1})],
        [("area_of", {"base": 10, "at": {"x": 2}})],
        [("area_of", {"base": 10}), ("area_of", {"base": 10})],
        [("area_of", [10])],
    ):
        assert not matches(made, wanted), made
    two = [{"f": {"x": [1]}}, {"g": {"x": [[1, "a"]], "y": [True]}}]
    assert matches([("g", {"x": [1, "A"], "y": True}), ("f", {"x": 1})], two)
    assert not matches([("g", {"x": [1, "A"], "y": 1}), ("f", {"x": 1})], two)


def test_every_bundled_call_can_be_made() -> None:
    """The first value that is allowed of every argument, as a reply."""
    records = {record["id"]: record for record in read(Settings(), "bfcl_v4")}

    def value(allowed: Any) -> Any:
        if isinstance(allowed, dict):
            chosen = {
                k: next(v for v in vs if v != "")
                for k, vs in allowed.items()
                if set(map(str, vs)) != {""}
            }
            return {k: value(v) for k, v in chosen.items()}
        return [value(part) for part in allowed] if isinstance(allowed, list) else allowed

    for item in _items("bfcl"):
        record = records[item.id.partition("/")[0]]
        assert isinstance(item.question, Chat)
        names = [tool["name"] for tool in item.question.tools]
        if record["category"] == "irrelevance":
            assert _right(item, "I cannot.")
            assert not _right(item, "", ToolCall(names[0], "{}"))
        elif record["category"] == "live_relevance":
            assert _right(item, "", ToolCall(names[0], "{}")) and not _right(item, "No.")
        else:
            made = []
            for call in record["ground_truth"]:
                ((name, allowed),) = call.items()
                made.append(ToolCall(name.replace(".", "_"), json.dumps(value(allowed))))
            assert {call.name for call in made} <= set(names)
            assert _right(item, "", *reversed(made)), record["id"]
            assert not _right(item, "", *made, made[0])
            assert not _right(item, "", ToolCall(made[0].name, "{"))


def test_types_have_the_names_of_json_schema() -> None:
    text = json.dumps(
        [item.question.tools for item in _items("bfcl") if isinstance(item.question, Chat)]
    )
    for name in ("dict", "float", "tuple", "any"):
        assert f'"type": "{name}"' not in text
    assert '"type": "object"' in text


def test_bundled_files_are_named_after_their_benchmark() -> None:
    names = [name for benchmark in BENCHMARKS for name in bundled(benchmark)]
    assert sorted(names) == sorted(path.name.split(".")[0] for path in BUNDLED.glob("*.jsonl.xz"))
    assert all(bundled(benchmark) for benchmark in BUNDLED_SETS)
    assert bundled("bbh") == ["bbh", "bbh_cot_prompts"]


def test_what_is_bundled_is_said() -> None:
    told = (BUNDLED / "README.md").read_text(encoding="utf-8")
    for path in BUNDLED.glob("*.jsonl.xz"):
        assert f"`{path.name.removesuffix('.jsonl.xz')}`" in told
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 400_000
