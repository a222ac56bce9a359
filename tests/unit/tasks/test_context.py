"""Problems with a context: as long as asked, the answer in it, anywhere in it."""

import pytest

from dsv4.errors import UsageError
from dsv4.tasks.problem import Ask
from dsv4.tasks.registry import problems

TEXTS = (
    "The old man sat by the sea.\nIt was a long day. Nobody came by.",
    "A second text.\n\nEnd.",
)


def context(problem):
    return " ".join(message.content for message in problem.messages)


@pytest.mark.parametrize("name", ["recall", "needle"])
@pytest.mark.parametrize("words", [50, 500, 5000])
def test_a_context_is_as_long_as_asked(name, words):
    for problem in problems(name, 8, ask=Ask(words=words)):
        length = len(context(problem).replace(":", " ").split())
        assert 0.9 * words - 10 <= length <= 1.6 * words + 40
        assert problem.grade(problem.reply).score == 1


def test_a_context_can_have_the_length_of_the_longest_prompts():
    (needle,) = problems("needle", 1, ask=Ask(words=48_000))
    assert 48_000 <= len(context(needle).split()) < 48_100


@pytest.mark.parametrize("name", ["recall", "needle", "memory"])
def test_the_answer_stands_in_the_context_once(name):
    for problem in problems(name, 60, seed=3, ask=Ask(words=200)):
        (value,) = problem.check.wanted[0]
        asked = problem.messages[-1].content
        said = context(problem).replace("\n", " ")
        assert value in said and (name == "memory" or value in asked)
        assert problem.grade(problem.reply).score == 1


def test_needles_lie_everywhere():
    places = []
    for problem in problems("needle", 200, seed=1, ask=Ask(words=600, effort="high")):
        fact = problem.reply.reasoning.split('"')[1]
        text = context(problem)
        assert text.count(fact) == 1
        places.append(text.index(fact) / len(text))
    assert min(places) < 0.1 and max(places) > 0.85
    assert 0.4 < sum(places) / len(places) < 0.6


def test_long_paragraphs_are_cut_to_the_length():
    for problem in problems("needle", 10, ask=Ask(words=100, texts=("word " * 5000,))):
        assert 95 <= len(context(problem).split()) < 140


def test_given_texts_are_the_filler():
    for problem in problems("needle", 10, ask=Ask(words=100, texts=TEXTS)):
        said = context(problem)
        assert "The old man sat by the sea." in said and "A second text." in said
        assert "slept near" not in said and problem.grade(problem.reply).score == 1


def test_a_copy_of_the_context_is_no_answer():
    for problem in problems("recall", 10, ask=Ask(words=100)):
        copied = problem.grade(type(problem.reply)(None, context(problem)))
        assert copied.score == 0


def test_dictionary_entries_can_be_given():
    meant = {"pos": "n", "definition": "a tree that grows slowly"}
    ask = Ask(entries=tuple({"words": [f"tree{i}"], **meant} for i in range(60)))
    for split in ("train", "heldout"):
        for problem in problems("meaning", 3, split=split, ask=ask):
            assert "tree that grows slowly" in problem.reply.content


def test_lengths_below_nothing_are_refused():
    with pytest.raises(UsageError, match="-1 words"):
        Ask(words=-1)
