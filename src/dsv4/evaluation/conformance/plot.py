"""Lines over layers as SVG: what a page shows without any script or other file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 22, 20
COLOURS = ("#1f6feb", "#d1632a", "#2f8f4e", "#8250df", "#a8324a")


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every series, the same in all images of a page."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def legend(chosen: Mapping[str, str]) -> str:
    """Which colour is which series, as HTML."""
    marks = (
        f'<span style="color:{colour}">&#9679; {escape(name)}</span>'
        for name, colour in chosen.items()
    )
    return f"<p class=legend>{' '.join(marks)}</p>"


def lines(
    title: str,
    names: Sequence[str],
    series: Mapping[str, Sequence[tuple[int, float]]],
    chosen: Mapping[str, str],
) -> str:
    """An SVG image: a line per series of (place, value), on a logarithmic scale.

    `names` label the places, `chosen` has the colours. Zero is drawn at the lower edge, what is
    not finite at the upper.
    """
    values = [value for line in series.values() for _, value in line if 0 < value < math.inf]
    low = math.floor(math.log10(min(values, default=1e-6)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=1e-5))))

    def x(place: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (place + 0.5) / max(1, len(names))

    def y(value: float) -> float:
        if value <= 0:
            share = 0.0
        elif not math.isfinite(value):
            share = 1.0
        else:
            share = min(1.0, max(0.0, (math.log10(value) - low) / (high - low)))
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="14" class="title">{escape(title)}</text>',
    ]
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" class="left">1e{exponent}</text>')
    step = max(1, math.ceil(len(names) / 16))
    for place in range(0, len(names), step):
        parts.append(
            f'<text x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 14}" class="below">'
            f"{escape(names[place])}</text>"
        )
    for name, line in series.items():
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in line)
        parts.append(f'<polyline points="{points}" style="stroke:{chosen[name]}"/>')
        parts += [
            f'<circle cx="{x(place):.1f}" cy="{y(value):.1f}" r="2.5" style="fill:{chosen[name]}"/>'
            for place, value in line
        ]
    return "".join(parts) + "</svg>"
