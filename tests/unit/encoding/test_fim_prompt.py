"""The fill-in-the-middle prompt."""

from __future__ import annotations

from dsv4.encoding.fim import render_fim


def test_prefix_hole_suffix() -> None:
    prompt = render_fim("def f(", "<｜fim▁end｜>\n    return")
    assert prompt.spans == (
        ("<｜begin▁of▁sentence｜>", True),
        ("<｜fim▁begin｜>", True),
        ("def f(", False),
        ("<｜fim▁hole｜>", True),
        ("<｜fim▁end｜>\n    return", False),
        ("<｜fim▁end｜>", True),
    )
    assert not prompt.opens_thinking


def test_no_suffix() -> None:
    assert (
        render_fim("x").text == "<｜begin▁of▁sentence｜><｜fim▁begin｜>x<｜fim▁hole｜><｜fim▁end｜>"
    )
