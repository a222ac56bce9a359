"""Columns are right for every sum, and the reasoning of a problem ends in its answer."""

from random import Random

import pytest

from dsv4.tasks import columns
from dsv4.tasks.problem import Ask
from dsv4.tasks.registry import problems


def last(lines):
    return int(lines.splitlines()[-1].rsplit(":", 1)[1])


@pytest.mark.parametrize("steps, result", [
    (columns.add, lambda a, b: a + b),
    (columns.subtract, lambda a, b: a - b),
    (columns.multiply, lambda a, b: a * b),
])  # fmt: skip
def test_columns_end_in_the_result(steps, result):
    draw = Random(1)
    pairs = [(a, b) for a in range(13) for b in range(13)]
    pairs += [(draw.randint(0, 10**draw.randint(1, 4)), draw.randint(0, 10**draw.randint(1, 4)))
              for _ in range(500)]  # fmt: skip
    for a, b in pairs:
        assert last(steps(a, b)) == result(a, b), (a, b)


def test_every_line_of_a_column_is_true():
    for line in columns.add(905, 1198).splitlines():
        sum_, _, _ = line.partition(":")
        terms, equals, total = sum_.partition("=")
        if equals:
            assert sum(map(int, terms.split("+"))) == int(total.split()[0])
    assert columns.add(47, 85) == "7+5=12 carry 1: 2\n4+8+1=13 carry 1: 32\n1: 132"
    assert (
        columns.subtract(132, 85) == "12-5=7 borrow 1: 7\n13-8-1=4 borrow 1: 47\n1-1=0: 047\nso: 47"
    )
    assert columns.multiply(23, 4) == "23*4\n3*4=12 carry 1: 2\n2*4+1=9: 92"


def test_reasoning_holds_the_answer_and_max_checks_it():
    for problem in problems("arithmetic", 300, ask=Ask(effort="high")):
        assert problem.reply.reasoning.endswith(f"= {problem.reply.content}")
    for problem in problems("arithmetic", 300, ask=Ask(effort="max")):
        work, _, check = problem.reply.reasoning.partition("\nCheck:")
        assert work.endswith(f"= {problem.reply.content}") and check.endswith("Right.")


def test_levels_are_digits():
    for problem in problems("arithmetic", 200, ask=Ask(level=1, effort="high")):
        terms = problem.reply.reasoning.splitlines()[0].replace("-", "+").replace("*", "+")
        assert all(len(term) == 1 for term in terms.split("+"))
