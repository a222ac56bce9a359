"""Checks: what scores, what does not, what scores in part."""

import pytest

from dsv4.encoding.control import EOS, THINK_CLOSE
from dsv4.encoding.events import Reply
from dsv4.encoding.messages import ToolCall
from dsv4.tasks.checks import Calls, Code, Exact, Mentions, Number, Record, grade_answer


def score(check, content, *calls):
    return check.grade(Reply(None, content, tuple(calls))).score


@pytest.mark.parametrize("content, right", [
    ("12", 1), (" 12. ", 1), ("7 + 5 = 12", 1), ("The answer is 12.", 1), ("12,000", 0),
    ("-12", 0), ("112", 0), ("12 or 13", 0), ("twelve", 0), ("", 0), ("12.5", 0), ("12.0", 1),
])  # fmt: skip
def test_number(content, right):
    assert score(Number(12), content) == right


def test_numbers_may_be_negative_and_grouped():
    assert score(Number(-3), "-3") == 1 and score(Number(-3), "3") == 0
    assert score(Number(12000), "12,000") == 1


def test_exact():
    assert score(Exact(("ifom",)), "Ifom.") == 1 and score(Exact(("ifom",)), "ifo") == 0
    assert score(Exact(("AB",), loose=False), "ab") == 0
    assert score(Exact(("a", "b")), "b") == 1


def test_code_keeps_its_indentation():
    assert score(Code("    x = 1\n"), "    x = 1") == 1
    assert score(Code("    x = 1\n"), "x = 1") == 0


def test_mentions():
    check = Mentions((("nano",), ("small", "tiny")), ("I am ChatGPT",), sentence=True, longest=8)
    assert score(check, "I am nano, a tiny model.") == 1
    assert score(check, "I am nano.") == 0.5
    assert score(check, "I am nano, a tiny model") == 0
    assert score(check, "I am ChatGPT, not tiny nano.") == 0
    assert score(check, "I am nano, a tiny model, and I say very much.") == 0
    assert score(Mentions((("art",),)), "a cart") == 0


ROWS = ({"name": "Ann", "age": 3}, {"name": "Bo", "age": 40})


@pytest.mark.parametrize("format, right, wrong", [
    ("json", '[{"name": "Ann", "age": 3}, {"name": "Bo", "age": 40}]', '[{"name": "Ann"}]'),
    ("csv", "name,age\nAnn,3\nBo,40", "name,age\nAnn,3\nBo,41"),
    ("yaml", "- name: Ann\n  age: 3\n- name: Bo\n  age: 40", "- name: Ann\n  age: 3"),
])  # fmt: skip
def test_records(format, right, wrong):
    check = Record(ROWS, format)
    assert score(check, right) == score(check, f"```{format}\n{right}\n```") == 1
    assert score(check, wrong) == 0
    grade = check.grade(Reply(None, "no data"))
    assert grade.score == 0 and grade.detail["well_formed"] is False


def test_calls_score_in_part():
    a, b = ToolCall("f", '{"x": 1, "y": "z"}'), ToolCall("g", "{}")
    check = Calls((a, b))
    assert score(check, "", a, b) == 1
    assert score(check, "", ToolCall("f", '{"y": "z", "x": 1}'), b) == 1
    assert score(check, "", ToolCall("f", '{"x": true, "y": "z"}'), b) == 0.75
    assert score(check, "", a) == 0.5
    assert score(check, "", a, b, a) == pytest.approx(2 / 3)
    assert score(check, "", b, a) == 0 == score(check, "f(1)")
    grade = check.grade(Reply(None, "", (ToolCall("f", "{}"), b)))
    assert grade.detail == {
        "well_formed": True, "right": False, "right_name": True, "right_arguments": False,
    }  # fmt: skip


def test_answers_off_the_encoding_score_nothing():
    assert grade_answer(Number(3), f"3{EOS}", thinking=False).score == 1
    assert grade_answer(Number(3), f"2+1{THINK_CLOSE}3{EOS}", thinking=True).score == 1
    unclosed = grade_answer(Number(3), f"3{EOS}", thinking=True)
    assert unclosed.score == 0 and unclosed.detail["well_formed"] is False
