"""Records of corpus files as documents."""

import json
from pathlib import Path

import pytest

from dsv4.data.coffee import COFFEE_TOOLS
from dsv4.data.documents import Text, exchange
from dsv4.data.records import to_documents
from dsv4.errors import DataError

HERE = Path("file.jsonl")
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def one(record, path):
    (document,) = to_documents(record, path)
    return document


def test_texts_and_exchanges():
    assert one({"text": " a "}, HERE) == Text("a")
    assert to_documents({"text": " "}, HERE) == ()
    made = one({"prompt": "Q", "input": "data", "response": " A"}, HERE)
    assert made == exchange("Q\ndata", "A")
    chat = one({"messages": [USER, ASSISTANT]}, HERE)
    assert chat == exchange("hi", "hello") and chat.tools == ()


def test_a_definition():
    record = {"words": ["oak"], "pos": "n", "definition": "a tree", "examples": ["an old oak"]}
    question, answer = one(record, HERE).messages
    assert answer.content == 'oak (noun): a tree. Example: "an old oak"'
    assert "oak" in question.content


def test_a_solved_problem_shows_its_reasoning_without_marks():
    response = "She has 48/2 = <<48/2=24>>24 clips.\nIn all <<48+24=72>>72.\n#### 72"
    document = one({"prompt": "How many?", "response": response}, HERE)
    answer = document.messages[1]
    assert document.effort == "high" and answer.content == "72"
    assert answer.reasoning == "She has 48/2 = 24 clips.\nIn all 72."


def test_a_heading_is_no_solution():
    response = "Some text.\n#### Part 2\nMore text."
    assert to_documents({"prompt": "Q", "response": response}, HERE) == (exchange("Q", response),)


def call(name, **arguments):
    return {"role": "assistant", "tool_call": {"name": name, "arguments": arguments}}


def result(name, content):
    return {"role": "tool", "name": name, "content": content}


def test_calls_come_with_the_tools_and_their_results():
    messages = [
        {"role": "user", "content": "A latte, please."},
        call("get_menu_items", query="Latte"),
        result("get_menu_items", {"menu_items": [{"menu_item_id": "latte-1"}]}),
        call("add_order_item", menu_item_id="latte-1", quantity="1"),
        result("add_order_item", {"order_id": "7"}),
        {"role": "assistant", "content": "Is that all?"},
        {"role": "user", "content": "Yes."},
        call("finish_order", order_id="7"),
        result("finish_order", "done"),
    ]
    document = one({"id": "x", "messages": messages}, HERE)
    assert document.tools == COFFEE_TOOLS and len(COFFEE_TOOLS) == 8
    said = [message.role for message in document.messages]
    assert said == "user assistant tool assistant tool assistant user assistant".split()
    first, second = document.messages[1].tool_calls[0], document.messages[2]
    assert (first.name, first.arguments) == ("get_menu_items", {"query": "Latte"})
    assert second.tool_call_id == first.id
    assert json.loads(second.content) == {"menu_items": [{"menu_item_id": "latte-1"}]}
    names = [tool["name"] for tool in COFFEE_TOOLS]
    assert {c.name for m in document.messages for c in m.tool_calls} <= set(names)


def test_a_conversation_needs_a_user_and_an_answer():
    assert to_documents({"messages": [USER]}, HERE) == ()
    assert to_documents({"messages": [ASSISTANT]}, HERE) == ()
    assert to_documents({"messages": [USER, ASSISTANT, ASSISTANT]}, HERE) == ()
    ended = one({"messages": [USER, ASSISTANT, USER]}, HERE)
    assert [m.role for m in ended.messages] == ["user", "assistant"]


def country(**geography):
    government = {
        "Country name": {"conventional short form": "Mali"},
        "Capital": {"name": "Bamako"},
        "National color(s)": "green, yellow, red",
    }
    return {"name": "Mali", "facts": {"Government": government, "Geography": geography}}


def test_a_country_gives_a_text_and_questions():
    borders = {
        "total": "9 km",
        "border countries": "Algeria 1,359 km; Niger 838 km, Senegal 489 km",
    }
    record = country(Location="interior Western Africa, south of Algeria", **{
        "Land boundaries": borders, "Coastline": "0 km (landlocked)",
    })  # fmt: skip
    text, *asked = to_documents(record, HERE)
    answers = [document.messages[1].content for document in asked]
    assert answers == [
        "The capital of Mali is Bamako.",
        "Mali is in Western Africa.",
        "Mali shares a border with Algeria, Niger and Senegal.",
        "No, Mali has no coast on an ocean.",
        "The national colours of Mali are green, yellow and red.",
    ]
    assert text == Text(" ".join(answers).replace("No, ", ""))
    assert all("Mali" in document.messages[0].content for document in asked)


def test_facts_in_an_unusual_form_are_left_out():
    odd = {"border countries": "Algeria, about 1,359 km; others"}
    documents = to_documents(country(Location="42 N", **{"Land boundaries": odd}), HERE)
    said = documents[0].text
    assert said.endswith("green, yellow and red.") and "border" not in said and "42" not in said
    assert to_documents({"name": "World", "facts": {"Government": {}}}, HERE) == ()


@pytest.mark.parametrize("record", [{"body": "x"}, {"prompt": "q"}, {"text": 3}, {"messages": 3}])
def test_unknown_shapes_are_refused(record):
    with pytest.raises(DataError, match="record has keys"):
        to_documents(record, HERE)
