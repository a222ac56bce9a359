"""Questions from tasks: graded as the tasks grade, priced by effort, within the context."""

from dataclasses import replace
from random import Random

import pytest
from tests.conftest import byte_vocabulary

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.tasks.problem import Ask
from dsv4.tasks.registry import TASKS, generate, task
from dsv4.training.questions import Question
from dsv4.training.task_questions import LIMITS, Kind, Limit, TaskQuestions, parse_limits


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(byte_vocabulary())


@pytest.mark.parametrize("kind", ["arithmetic:off", "arithmetic:high", "strings:max"])
def test_the_reference_answer_earns_the_full_score_less_its_length(tokenizer, kind):
    wanted = Kind.parse(kind)
    question = TaskQuestions(tokenizer, [wanted], context=4096).draw(Random(5))
    rng = Random(5)
    rng.choices([wanted], [1.0])
    problem = generate(wanted.task, rng, "train", Ask(effort=wanted.effort))
    assert question.ids == tuple(tokenizer.encode_prompt(problem.prompt()))
    answer = tokenizer.encode_prompt(problem.answer())
    assert question.kind == kind and question.grade(answer) == 1.0
    limit = LIMITS[wanted.effort]
    price = limit.penalty * len(answer) / question.max_tokens
    assert question.reward(answer, 1.0) == pytest.approx(1.0 - price)


def test_what_is_cut_off_or_opens_another_turn_earns_nothing(tokenizer):
    question = TaskQuestions(tokenizer, [Kind("arithmetic", "high")], context=4096).draw(Random(1))
    assert question.grade(tokenizer.encode("so 3 + 4 is")) == 0.0
    assert question.grade([]) == 0.0
    user = tokenizer.control_id("<｜User｜>")
    assert question.grade([*tokenizer.encode("5"), user]) == 0.0


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_right_answer_that_does_not_stop_is_not_right(tokenizer, name):
    """Or a policy that rambles on after it would have nothing to gain by stopping."""
    for effort in task(name).efforts:
        wanted, rng = Kind(name, effort), Random(3)
        question = TaskQuestions(tokenizer, [wanted], context=1 << 20).draw(Random(3))
        rng.choices([wanted], [1.0])
        answer = tokenizer.encode_prompt(generate(name, rng, "train", Ask(effort=effort)).answer())
        assert question.grade(answer) == 1.0
        assert question.grade(answer[:-1]) == 0.0
        assert question.grade([*answer[:-1], *tokenizer.encode(" and so on")]) == 0.0


def test_answers_that_earned_nothing_pay_nothing():
    question = Question("x", (1,), 10, 0.5, len, str)
    assert question.reward([1] * 10, 0.0) == 0.0
    assert question.reward([1] * 10, 1.0) == 0.5
    assert question.reward([1] * 5, 0.5) == 0.25


def test_equal_generators_draw_equal_questions_of_all_kinds(tokenizer):
    kinds = [Kind("arithmetic", "off"), Kind("strings", None, 3.0)]
    source = TaskQuestions(tokenizer, kinds, context=4096)
    drawn = [source.draw(Random(seed)) for seed in range(40)]
    again = [source.draw(Random(seed)) for seed in range(40)]
    assert [q.ids for q in drawn] == [q.ids for q in again]
    strings = sum(q.kind.startswith("strings") for q in drawn)
    assert 20 < strings < 40
    assert {q.kind for q in drawn} > {"arithmetic:off", "strings:off"}


def test_prompts_leave_room_in_the_context(tokenizer):
    source = TaskQuestions(tokenizer, [Kind("arithmetic", "off")], context=40)
    for seed in range(20):
        question = source.draw(Random(seed))
        assert len(question.ids) + question.max_tokens <= 40 < len(question.ids) + 128
    with pytest.raises(UsageError, match="leave no room"):
        replace_context(source, 5).draw(Random(0))


def replace_context(source, context):
    return TaskQuestions(source._tokenizer, source._kinds, context=context)


def test_kinds_and_limits_as_the_command_line_says_them():
    assert Kind.parse("arithmetic:high=2.5") == Kind("arithmetic", "high", 2.5)
    assert Kind.parse("strings") == Kind("strings")
    limits = parse_limits(["high=64:0.3", "off=9"])
    assert limits["high"] == Limit(64, 0.3)
    assert limits["off"] == replace(LIMITS["off"], tokens=9)
    assert limits["max"] == LIMITS["max"]


@pytest.mark.parametrize("text", ["nothing", "arithmetic:loud", "arithmetic=0", "arithmetic=x"])
def test_wrong_kinds_are_refused(text):
    with pytest.raises(UsageError):
        Kind.parse(text)


@pytest.mark.parametrize("text", ["high", "loud=3", "high=x", "high=0", "high=3:2", "high=3:x"])
def test_wrong_limits_are_refused(text):
    with pytest.raises(UsageError):
        parse_limits([text])
