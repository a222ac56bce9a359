"""Sums worked out in columns, digit by digit, as a small model can learn them.

The last part of every line is the result as far as it is known, so each step copies the line
before and puts one digit in front.
"""

from __future__ import annotations


def add(a: int, b: int) -> str:
    """The steps of a + b, both not negative."""
    lines, done, carry = [], "", 0
    x, y = str(a)[::-1], str(b)[::-1]
    for place in range(max(len(x), len(y))):
        digits = [number[place] for number in (x, y) if place < len(number)]
        terms = digits + ["1"] * carry
        total = sum(map(int, terms))
        carry, done = total // 10, str(total % 10) + done
        kept = " carry 1" if carry else ""
        lines.append(f"{'+'.join(terms)}={total}{kept}: {done}")
    if carry:
        lines.append(f"1: 1{done}")
    return "\n".join(lines)


def subtract(a: int, b: int) -> str:
    """The steps of a - b, neither negative. A smaller a is subtracted from b."""
    if a < b:
        return f"{b} is more than {a}, so {b}-{a} with a minus\n{subtract(b, a)}\nminus: {a - b}"
    lines, done, borrow = [], "", 0
    x, y = str(a)[::-1], str(b)[::-1]
    for place, top in enumerate(x):
        taken = ([y[place]] if place < len(y) else []) + ["1"] * borrow
        value = int(top) - sum(map(int, taken))
        borrow = int(value < 0)
        shown = f"1{top}" if borrow else top
        done = str(value + 10 * borrow) + done
        kept = " borrow 1" if borrow else ""
        lines.append(f"{'-'.join([shown, *taken])}={value + 10 * borrow}{kept}: {done}")
    if done != str(a - b):
        lines.append(f"so: {a - b}")
    return "\n".join(lines)


def multiply(a: int, b: int) -> str:
    """The steps of a * b, neither negative: one row per digit of b, then their sum."""
    rows, total, lines = str(b)[::-1], 0, []
    for place, digit in enumerate(rows):
        part = a * int(digit) * 10**place
        lines.append(f"{a}*{digit}{'0' * place}\n{_row(a, int(digit), place)}")
        if place:
            lines.append(f"{total}+{part}\n{add(total, part)}")
        total += part
    return "\n".join(lines)


def _row(a: int, digit: int, zeros: int) -> str:
    """The steps of a times one digit, with `zeros` zeros behind."""
    lines, done, carry = [], "0" * zeros, 0
    for figure in str(a)[::-1]:
        total = int(figure) * digit + carry
        plus = f"+{carry}" if carry else ""
        carry, done = total // 10, str(total % 10) + done
        kept = f" carry {carry}" if carry else ""
        lines.append(f"{figure}*{digit}{plus}={total}{kept}: {done}")
    if carry:
        lines.append(f"{carry}: {carry}{done}")
        done = f"{carry}{done}"
    if done != str(int(done)):
        lines.append(f"so: {int(done)}")
    return "\n".join(lines)
