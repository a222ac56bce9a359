"""Sums: up to three small numbers added, subtracted or multiplied.

Without thinking the reply is the bare number. Thinking shows the columns (see `columns`), and
with effort "max" a check of the result after them.
"""

from __future__ import annotations

from random import Random

from dsv4.tasks import columns
from dsv4.tasks.checks import Number
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, dialogue, pick_effort

_WORDS = {"+": "plus", "-": "minus", "*": "times"}
_STEPS = {"+": columns.add, "-": columns.subtract, "*": columns.multiply}

_ASKED = (
    "What is {sum}?",
    "{sum} = ?",
    "{sum}",
    "Calculate {sum}.",
    "Compute {sum}.",
    "How much is {sum}?",
    "Please work out {sum}.",
    "Can you tell me what {sum} is?",
    "Solve: {sum}",
    "What does {sum} equal?",
    "I need the result of {sum}.",
    "Give me the answer to {sum}.",
    "What's {sum}?",
    "{sum} =",
)


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """A sum. Held out are a tenth of all sums, whatever their wording."""
    while True:
        numbers, signs = _draw(rng, ask.level or rng.choices((1, 2, 3, 4), (3, 4, 3, 2))[0])
        if belongs(_written(numbers, signs), split):
            break
    effort = pick_effort(rng, ask, off=0.35, high=0.45)
    result = numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = _apply(result, sign, number)
    question = rng.choice(_ASKED).format(sum=_asked(rng, numbers, signs))
    reasoning = work(numbers, signs)
    if effort == "max":
        reasoning += "\n" + _check(numbers, signs, result)
    return dialogue(
        "arithmetic", question, str(result), Number(result), effort=effort, reasoning=reasoning
    )


def _draw(rng: Random, level: int) -> tuple[list[int], list[str]]:
    """Numbers and the signs between them."""
    sign = rng.choices("+-*", (4, 3, 3))[0]
    if sign == "*":
        digits = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (3, 2)}[level]
        numbers = [_number(rng, count) for count in digits]
        rng.shuffle(numbers)
        return numbers, ["*"]
    numbers, signs = [_number(rng, rng.randint(max(1, level - 1), level))], []
    count = rng.choices((1, 2), (4, 1))[0]
    for _ in range(count):
        numbers.append(_number(rng, rng.randint(max(1, level - 1), level)))
        signs.append(sign if count == 1 else rng.choice("+-"))
    if sign == "-" and count == 1 and rng.random() < 0.8:
        numbers.sort(reverse=True)
    return numbers, signs


def _number(rng: Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)


def _written(numbers: list[int], signs: list[str]) -> str:
    pairs = zip(signs, numbers[1:], strict=True)
    return str(numbers[0]) + "".join(f" {sign} {number}" for sign, number in pairs)


def _asked(rng: Random, numbers: list[int], signs: list[str]) -> str:
    """The sum as a person writes it."""
    style = rng.random()
    text = _written(numbers, signs)
    if style < 0.2:
        return text.replace(" ", "")
    if style < 0.4:
        for sign, word in _WORDS.items():
            text = text.replace(f" {sign} ", f" {word} ")
        return text
    return text.replace("*", "x") if style < 0.5 else text


def _apply(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def work(numbers: list[int], signs: list[str]) -> str:
    """The columns of one operation after the other, and the result."""
    lines, result = [], numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        lines.append(f"{result}{sign}{number}")
        lines.append(_steps(result, sign, number))
        result = _apply(result, sign, number)
        lines.append(f"= {result}")
    return "\n".join(lines)


def _steps(a: int, sign: str, b: int) -> str:
    """Columns; a negative first number only comes from a longer sum."""
    if a >= 0:
        return _STEPS[sign](a, b)
    if sign == "-":
        return f"minus ({-a}+{b})\n{columns.add(-a, b)}\nminus: {a - b}"
    return f"{b}-{-a}\n{columns.subtract(b, -a)}"


def _check(numbers: list[int], signs: list[str], result: int) -> str:
    """The way back for sums, the last digit for products."""
    if signs == ["*"]:
        a, b = numbers[0] % 10, numbers[1] % 10
        last = f"{a}*{b}={a * b} ends in {a * b % 10}"
        return f"Check: {last}, and {result} ends in {result % 10}. Right."
    lines, value = ["Check:"], result
    for sign, number in reversed(list(zip(signs, numbers[1:], strict=True))):
        back = "-" if sign == "+" else "+"
        lines.append(f"{value}{back}{number}")
        lines.append(_steps(value, back, number))
        value = _apply(value, back, number)
        lines.append(f"= {value}")
    return "\n".join([*lines, f"{value} is the first number. Right."])


TASK = Task("arithmetic", "sums of up to three numbers, in columns when thinking", make)
