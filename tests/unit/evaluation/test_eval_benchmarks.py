"""Benchmarks against targets that say what the test wants, and against a random model."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.serving import calls, served

from dsv4.chat.engine import Engine
from dsv4.chat.model import Model
from dsv4.data.corpora import STANDARD_LIBRARY, Source, read
from dsv4.data.documents import Text
from dsv4.encoding.events import Reply
from dsv4.errors import DataError, UsageError
from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Benchmark, Settings, run
from dsv4.evaluation.benchmarks import retrieval, samples, text
from dsv4.evaluation.benchmarks.arithmetic import ARITHMETIC, INFILL
from dsv4.evaluation.benchmarks.blimp import BLIMP
from dsv4.evaluation.benchmarks.catalogue import BENCHMARKS, chosen
from dsv4.evaluation.benchmarks.coffee import COFFEE
from dsv4.evaluation.benchmarks.problems import grade, items
from dsv4.evaluation.benchmarks.python import functions
from dsv4.evaluation.benchmarks.retrieval import NEEDLE, RECALL
from dsv4.evaluation.benchmarks.samples import NEWCOMER
from dsv4.evaluation.benchmarks.tasks import ELSEWHERE, OTHERS
from dsv4.evaluation.benchmarks.text import BIGRAM, FIVEGRAM, TEXT
from dsv4.evaluation.benchmarks.tools import TOOLS
from dsv4.evaluation.endpoint import Endpoint
from dsv4.evaluation.local import LocalModel
from dsv4.evaluation.question import Answer, Chat, Fill, Likelihood, Question, Said, Scored
from dsv4.tasks.problem import Ask
from dsv4.tasks.registry import TASKS, problems


class Known:
    """Answers by a function of the question; every 4 characters are a token."""

    name = fingerprint = "known"
    likelihoods = True
    context = 10_000

    def __init__(self, answer: Callable[[Question], Answer]) -> None:
        self.asked: list[Question] = []
        self._answer = answer

    def length(self, question: Question) -> int:
        assert isinstance(question, Chat)
        return sum(len(message.content) for message in question.messages) // 4

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        for i, question in reversed(list(enumerate(questions))):
            self.asked.append(question)
            yield i, self._answer(question)


def _says(text: str) -> Known:
    return Known(lambda question: Said(text, Reply(None, text), True, 1))


def _numbers(benchmark: Benchmark, target: Known, settings: Settings, folder: Path) -> dict:  # type: ignore[type-arg]
    result = run(benchmark, target, settings, folder)
    return {(row.group, row.measure): (row.mean, row.count) for row in result.rows}


def test_an_interrupted_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    class Tired(Known):
        def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
            for number, answer in super().answer(questions):
                if len(self.asked) == 8:
                    raise KeyboardInterrupt
                yield number, answer

    settings = Settings(limit=10)
    said = Said("no", Reply(None, "no"), True)
    with pytest.raises(KeyboardInterrupt):
        run(INFILL, Tired(lambda q: said), settings, tmp_path)
    rest = Known(lambda q: said)
    seen: list[tuple[int, int]] = []
    result = run(INFILL, rest, settings, tmp_path, lambda *at: seen.append(at))
    assert (result.items, len(rest.asked)) == (10, 3)
    assert seen == [(7, 10), (8, 10), (9, 10), (10, 10)]
    more = Known(lambda q: said)
    assert run(INFILL, more, Settings(limit=12), tmp_path).items == 12
    assert len(more.asked) == 2
    assert run(INFILL, more, Settings(limit=3), tmp_path).items == 3


def test_changed_questions_are_asked_again(tmp_path: Path) -> None:
    run(INFILL, _says("x"), Settings(limit=2), tmp_path)
    longer = dataclasses.replace(
        INFILL,
        items=lambda s, t: (
            dataclasses.replace(item, question=Fill("a", "b", 5)) for item in INFILL.items(s, t)
        ),
    )
    again = _says("x")
    run(longer, again, Settings(limit=2), tmp_path)
    assert again.asked == [Fill("a", "b", 5)] * 2


@pytest.mark.parametrize("name", [name for name in TASKS if name != "infill"])
def test_reference_replies_are_right_and_fit(name: str) -> None:
    """What the check of a task calls right is right here, within the limit of tokens."""
    for effort in TASKS[name].efforts:
        made = {item.id: item for item in items(name, "g", 5, Ask(effort=effort))}
        drawn = problems(name, 50, split="heldout", ask=Ask(effort=effort))
        known = {f"g/{i}": problem for i, problem in enumerate(drawn)}
        assert len(made) == 5 and len({item.digest for item in made.values()}) == 5
        for item, problem in ((item, known[item.id]) for item in made.values()):
            assert isinstance(item.question, Chat) and item.question.effort == effort
            right = item.grade(Said("", problem.reply, True))
            assert right["score"] == right["well_formed"] == 1
            assert item.question.max_tokens > len(problem.reply.content.split())
            assert item.grade(Said("", problem.reply, False))["score"] == 0  # cut off
            assert item.grade(Said("", None, True)) == {"well_formed": 0, "score": 0}


def test_every_task_is_measured_somewhere() -> None:
    def groups(benchmark: Benchmark) -> set[str]:
        made = benchmark.items(Settings(limit=1), Known(lambda q: Scored((), ())))
        return {item.group.split(",")[0] for item in made}

    assert groups(OTHERS) | set(ELSEWHERE) == set(TASKS)
    assert groups(TOOLS) == {"tool_call", "tool_calls"}


def test_thinking_is_compared_on_the_same_sums(tmp_path: Path) -> None:
    questions: dict[str, list[str]] = {}
    for item in ARITHMETIC.items(Settings(limit=3), _says("")):
        assert isinstance(item.question, Chat)
        effort = item.group.split(",")[0]
        questions.setdefault(effort, []).append(item.question.messages[-1].content)
    assert questions["off"] == questions["high"] == questions["max"]
    assert all(len(set(questions["off"][i : i + 3])) == 3 for i in range(0, 12, 3))

    right = {
        problem.messages: problem.reply
        for level in (1, 2, 3, 4)
        for problem in problems("arithmetic", 30, split="heldout", ask=Ask("off", level))
    }

    def answer(question: Question) -> Answer:
        assert isinstance(question, Chat)
        good = question.effort == "high"
        return Said("", right[question.messages] if good else Reply(None, "none"), True)

    found = _numbers(ARITHMETIC, Known(answer), Settings(limit=3), tmp_path)
    assert found["high, all levels", "right"] == (1, 12)
    assert found["off, level 3", "right"] == (0, 3)
    assert found["high minus off", "difference"] == (1, 12)
    assert found["max minus off", "difference"] == (0, 12)


def test_calls_of_one_request_count_as_one_answer(tmp_path: Path) -> None:
    asked: dict[str, dict[str, tuple[object, ...]]] = {}
    for item in TOOLS.items(Settings(limit=3), _says("")):
        assert isinstance(item.question, Chat)
        task, effort = item.group.split(", ")
        request = (item.question.messages, repr(item.question.tools))
        asked.setdefault(effort, {})[f"{task}/{item.id.split('/')[1]}"] = request
    assert asked["off"] == asked["high"] == asked["max"]
    assert len(set(asked["off"].values())) == 6

    right = {
        problem.messages: problem.reply
        for task in ("tool_call", "tool_calls")
        for problem in problems(task, 30, split="heldout", ask=Ask("off"))
    }

    def answer(question: Question) -> Answer:
        assert isinstance(question, Chat)
        good = question.effort == "high"
        return Said("", right[question.messages] if good else Reply(None, "none"), True)

    result = run(TOOLS, Known(answer), Settings(limit=3), tmp_path)
    (row,) = [r for r in result.rows if (r.group, r.measure) == ("all", "right_arguments")]
    assert (row.count, row.mean) == (18, pytest.approx(1 / 3))
    assert intervals.wilson(2, 6)[1:] == pytest.approx((row.low, row.high))


def test_blimp_wants_the_good_sentence_strictly_more_likely(tmp_path: Path) -> None:
    pairs = [("island", "syntax"), ("island", "syntax"), ("agree", "morphology")] * 2
    lines = [
        {"sentence_good": f"good {i}", "sentence_bad": f"bad {i}", "UID": uid, "field": field}
        for i, (uid, field) in enumerate(pairs)
    ]
    path = tmp_path / "blimp.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def answer(question: Question) -> Answer:
        assert isinstance(question, Likelihood) and not question.end
        good, bad = (document.text for document in question.documents)  # type: ignore[union-attr]
        assert good.replace("good", "bad") == bad
        return Scored({"good 0": (-1, -2), "good 2": (-3, -3)}.get(good, (-2, -1)), (1, 1))

    found = _numbers(BLIMP, Known(answer), Settings(data=tmp_path, limit=3), tmp_path / "out")
    assert found["all", "right"] == (pytest.approx(1 / 5), 5)
    assert found["syntax", "right"] == (pytest.approx(1 / 3), 3)
    assert found["agree", "right"] == (0, 2)  # a tie is wrong


def test_bits_per_byte_count_what_a_model_writes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    told = [{"kind": kind, "prompt": "p" * 90, "response": "é" * 4} for kind in ("a", "a", "b")]
    for name, lines in (("told", told), ("books", [{"text": "x" * 16}])):
        written = "".join(json.dumps(line) + "\n" for line in lines)
        (data / f"heldout_{name}.jsonl").write_text(written, encoding="utf-8")
    sizes = {"é": math.log(2) * 24, "x": math.log(2) * 8}

    def answer(question: Question) -> Answer:
        assert isinstance(question, Likelihood) and question.end
        (document,) = question.documents
        known = "x" if document.prompt().spans[1].text[0] == "x" else "é"  # type: ignore[union-attr]
        return Scored((-sizes[known],), (5,))

    found = _numbers(TEXT, Known(answer), Settings(data=data, limit=2), tmp_path)
    assert found["told (all)", "bits per byte"] == (pytest.approx(3.0), 3)  # of 8 bytes, not 98
    assert found["told: a", "bits per byte"] == (pytest.approx(3.0), 2)
    assert found["books", "bits per byte"] == (pytest.approx(0.5), 1)
    assert found["books", "nats per token"] == (pytest.approx(math.log(2) * 8 / 5), 1)
    assert any(group.startswith("Python") for group, _ in found)
    with pytest.raises(DataError, match="heldout_"):
        run(TEXT, _says(""), Settings(data=tmp_path / "out"), tmp_path)


def test_python_functions_are_in_no_training_document() -> None:
    held_out = list(functions())
    trained = "\0".join(
        document.text
        for document in read(Source("python", STANDARD_LIBRARY, 1, ""), Path())
        if isinstance(document, Text)
    )
    assert len(held_out) > 50
    for function in held_out:
        assert function.text.startswith(("def ", "async def "))
        ast.parse(function.text)
        assert function.text not in trained


@pytest.mark.parametrize("benchmark", [NEEDLE, RECALL])
def test_contexts_have_the_length_they_are_named_after(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "LENGTHS", {128: 4, 512: 4, 2048: 2, 16384: 2})
    target = Known(lambda question: Said("", Reply(None, "nothing"), True))
    made = list(benchmark.items(Settings(), target))
    assert [item.group for item in made] == ["128"] * 4 + ["512"] * 4 + ["2048"] * 2
    for item in made:
        assert 0.75 * int(item.group) < target.length(item.question) <= int(item.group)
    fewer = list(benchmark.items(Settings(limit=1), target))
    assert [item.digest for item in fewer] == [made[i].digest for i in (0, 4, 8)]
    result = run(benchmark, target, Settings(limit=3), tmp_path)
    for length in ("128", "512", "2048"):
        counts = {row.measure: row.count for row in result.rows if row.group == length}
        assert sum(counts.values()) == 2 * counts["found"]


def test_calls_of_dialogues_are_asked_in_their_order(tmp_path: Path) -> None:
    def call(name: str) -> dict:  # type: ignore[type-arg]
        return {"role": "assistant", "tool_call": {"name": name, "arguments": {"query": "tea"}}}

    said = [
        {"role": "user", "content": "tea"}, call("get_menu_items"),
        {"role": "tool", "name": "get_menu_items", "content": {}}, call("get_addons"),
    ]  # fmt: skip
    path = tmp_path / "sub" / "taskmaster4_coffee_tools.jsonl"
    path.parent.mkdir()
    lines = [json.dumps({"id": f"d{i}", "messages": said}) + "\n" for i in range(60)]
    path.write_text("".join(lines), encoding="utf-8")
    made = list(COFFEE.items(Settings(corpora=tmp_path), _says("")))
    assert 2 <= len(made) < 20 and len(made) % 2 == 0  # one dialogue in twenty is held out
    first, second = made[:2]
    assert isinstance(first.question, Chat) and isinstance(second.question, Chat)
    assert [len(first.question.messages), len(second.question.messages)] == [1, 3]
    assert (first.group, second.group) == ("get_menu_items", "get_addons")
    assert first.question.tools
    names = [problem.messages for problem in problems("tool_call", 1)]
    assert names  # a wrong name is told from wrong arguments
    wrong = Reply(None, "", (_call("get_menu_items", '{"query": "milk"}'),))
    measures = first.grade(Said("", wrong, True))
    assert (measures["right_name"], measures["right_arguments"]) == (1, 0)


def _call(name: str, arguments: str):  # type: ignore[no-untyped-def]
    from dsv4.encoding.messages import ToolCall

    return ToolCall(name, arguments)


def test_a_random_model_answers_everything(
    fast: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole path through the engine: prompts, batches, strict parsing, likelihoods."""
    monkeypatch.setattr(text, "SAMPLE", 20_000)
    monkeypatch.setattr(samples, "LONGEST", 24)
    monkeypatch.setattr(text, "functions", lambda: [Text("def f():\n    pass")])
    data = tmp_path / "data"
    data.mkdir()
    story = {"text": "Once upon a time there was a fox. It slept."}
    (data / "heldout_books.jsonl").write_text(json.dumps(story) + "\n", encoding="utf-8")
    (data / "more.jsonl").write_text(json.dumps(story) + "\n", encoding="utf-8")
    settings = Settings(data, data, limit=1, quick=True)
    target = LocalModel(fast)
    try:
        for benchmark in (TEXT, BIGRAM, FIVEGRAM, INFILL, NEWCOMER):
            result = run(benchmark, target, settings, tmp_path)
            assert result.items
        assert [sample["group"] for sample in result.samples] == ["greedy", "seed 1", "seed 2"]
        again = run(NEWCOMER, target, settings, tmp_path / "again")
        assert again.samples == result.samples
    finally:
        target.close()


@pytest.mark.parametrize("name", ["tool_call", "infill"])
def test_prompts_are_those_that_were_trained_on(fast: Model, name: str) -> None:
    target = LocalModel(fast)
    for effort in TASKS[name].efforts:
        (item,) = items(name, "g", 1, Ask(effort=effort))
        (problem,) = problems(name, 1, split="heldout", ask=Ask(effort=effort))
        prompt = fast.tokenizer.encode_prompt(problem.prompt())
        assert target.length(item.question) == len(prompt)
        assert isinstance(item.question, (Chat, Fill))
        assert target.prompt_ids(item.question) == prompt


def test_replies_are_parsed_as_they_are(scripted: Callable[..., Engine]) -> None:
    def answer(text: str, **more: object) -> Said:
        engine = scripted(text)
        target = LocalModel(engine.model)
        try:
            chat = Chat(problems_chat.messages, 300, **more)  # type: ignore[arg-type]
            ((_, said),) = target.answer([chat])
        finally:
            target.close()
            engine.close()
        assert isinstance(said, Said)
        return said

    problems_chat = next(problems("arithmetic", 1))
    good = answer(calls("Rome"))
    assert good.reply is not None and good.finished
    assert good.reply.tool_calls[0].arguments == '{"city": "Rome"}'
    broken = answer(calls("Rome").removesuffix("</｜DSML｜tool_calls>"))
    assert broken.reply is None  # nothing is repaired
    thought = answer("because</think>4", effort="high")
    assert thought.reply == Reply("because", "4")
    assert answer("because", effort="high").reply is None
    long = answer("word " * 100)
    assert not long.finished and long.tokens == 300


def test_any_endpoint_can_be_asked(scripted: Callable[..., Engine], tmp_path: Path) -> None:
    (first,) = problems("arithmetic", 1, split="heldout", ask=Ask("off", 1))
    says = f"The answer is {first.reply.content}."
    with served(scripted(says)) as url:
        target = Endpoint(f"{url}/v1", "scripted")
        made = list(items("arithmetic", "g", 20, Ask("off", 1)))
        answers = target.answer([item.question for item in made])
        right = {i: made[i].grade(answer)["score"] for i, answer in answers}
        said = Said("", Reply(None, says), True)
        assert right == {i: made[i].grade(said)["score"] for i in range(20)}
        assert 0 < sum(right.values()) < 20
        ((_, filled),) = target.answer([Fill("a = ", "", 40)])
        assert filled == Said(says, Reply(None, says), True, len(says), miss=8)
    with served(scripted(calls("Rome"))) as url:
        target = Endpoint(f"{url}/v1", "scripted")
        item = next(items("tool_call", "g", 1))
        assert isinstance(item.question, Chat)
        tool = {"name": "weather", "parameters": {"type": "object"}}
        question = dataclasses.replace(item.question, tools=(tool,), effort="off")
        ((_, said),) = target.answer([question])
        assert isinstance(said, Said) and said.reply is not None
        assert said.reply.tool_calls[0].name == "weather"
        with pytest.raises(UsageError, match="how likely"):
            list(target.answer([Likelihood(())]))
    assert TEXT.missing(Settings(tmp_path, tmp_path), target.likelihoods) == "a model folder"
    assert BIGRAM.missing(Settings(tmp_path), likelihoods=True) == "--corpora"
    assert TOOLS.missing(Settings(), likelihoods=False) is None


def test_names_of_benchmarks() -> None:
    assert [benchmark.name for benchmark in chosen(())] == [
        b.name for b in BENCHMARKS.values() if b.suite == "own"
    ]
    assert chosen(["blimp", "text"]) == [TEXT, BLIMP]
    with pytest.raises(UsageError, match="no benchmark 'winogrande'"):
        chosen(["winogrande"])


def test_a_grade_has_a_number_for_everything() -> None:
    (problem,) = problems("tool_call", 1)
    right = grade(problem, Said("", problem.reply, True))
    assert {"well_formed", "right_name", "right_arguments", "score"} <= right.keys()
