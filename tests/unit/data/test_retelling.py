"""Stories asked for by what they are about."""

import pytest

from dsv4.data.documents import Text, exchange
from dsv4.data.retelling import retold, topics

FOX = "A fox lived by a river. The fox was cold. One day the fox met an owl, and the owl spoke."


def asked(story):
    return retold(exchange("Write a bedtime story called `X`.", story)).messages[0].content


def test_the_topic_is_what_a_story_keeps_speaking_of():
    assert topics(FOX) == ["fox"]
    assert topics(FOX + " Three owls sang. The owl slept.") == ["owl", "fox"]
    assert topics("The foxes were foxy.") == []


def test_the_request_names_it_and_the_story_stays():
    document = retold(exchange("Write a bedtime story called `X`.", FOX))
    assert "fox" in document.messages[0].content and "`X`" not in document.messages[0].content
    assert document.messages[1].content == FOX


def test_the_same_story_is_asked_for_in_the_same_words_and_others_in_others():
    assert asked(FOX) == asked(FOX)
    assert len({asked(f"{FOX} It was {day}.") for day in range(30)}) > 5


def test_a_story_about_nothing_known_is_just_a_story():
    said = {asked(f"Once there was nothing at all, number {number}.") for number in range(20)}
    assert all("about" not in request for request in said) and len(said) > 2


@pytest.mark.parametrize("vowel", ["owl", "ant", "island"])
def test_articles_agree(vowel):
    story = f"The {vowel} and the {vowel} saw the {vowel}."
    said = {asked(f"{story} {number}") for number in range(40)}
    assert all(f" a {vowel}" not in request for request in said)


def test_other_documents_stay():
    assert retold(Text("a text")) == Text("a text")
