"""Stop strings must not depend on how the text is cut into pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dsv4.chat.stop import StopStrings

WORDS = st.text(alphabet="ab", max_size=4)


@given(
    text=st.text(alphabet="ab", max_size=24),
    stops=st.lists(WORDS, max_size=3),
    cuts=st.lists(st.integers(0, 24), max_size=6),
)
def test_pieces_do_not_matter(text: str, stops: list[str], cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(text)]
    filtered = StopStrings(stops)
    out = "".join(filtered.feed(text[a:b]) for a, b in pairwise(bounds))
    out += "" if filtered.hit else filtered.finish()
    found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    if found:
        # Fed in pieces, the stop string that is complete first ends the text.
        assert filtered.hit
        assert text.startswith(out)
        assert any(text[len(out) :].startswith(stop) for stop in stops if stop)
    else:
        assert (out, filtered.hit) == (text, False)


def test_nothing_is_held_without_need() -> None:
    filtered = StopStrings(["END"])
    assert filtered.feed("text") == "text"
    assert filtered.feed("more E") == "more "
    assert filtered.feed("N") == ""
    assert filtered.feed("ough") == "ENough"


def test_long_strings_are_searched_quickly() -> None:
    strings = [letter * 1000 + "!" for letter in "abcdefghijklmnop"]
    stop = StopStrings(strings)
    passed = "".join(stop.feed("ab") for _ in range(20_000)) + stop.finish()
    assert passed == "ab" * 20_000
    stop = StopStrings(["aab"])
    assert stop.feed("aaa") == "a" and stop.feed("a") == "a" and stop.feed("b") == ""
    assert stop.found == "aab"
