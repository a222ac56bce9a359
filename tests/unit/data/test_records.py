"""Records of corpus files as documents."""

import json
from pathlib import Path

import pytest

from dsv4.data.coffee import COFFEE_TOOLS
from dsv4.data.documents import Text, exchange
from dsv4.data.records import to_document
from dsv4.errors import DataError

HERE = Path("file.jsonl")
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def test_texts_and_exchanges():
    assert to_document({"text": " a "}, HERE) == Text("a")
    assert to_document({"text": " "}, HERE) is None
    made = to_document({"prompt": "Q", "input": "data", "response": " A"}, HERE)
    assert made == exchange("Q\ndata", "A")
    chat = to_document({"messages": [USER, ASSISTANT]}, HERE)
    assert chat == exchange("hi", "hello") and chat.tools == ()


def test_a_definition():
    record = {"words": ["oak"], "pos": "n", "definition": "a tree", "examples": ["an old oak"]}
    question, answer = to_document(record, HERE).messages
    assert answer.content == 'oak (noun): a tree. Example: "an old oak"'
    assert "oak" in question.content


def test_a_solved_problem_shows_its_reasoning_without_marks():
    response = "She has 48/2 = <<48/2=24>>24 clips.\nIn all <<48+24=72>>72.\n#### 72"
    document = to_document({"prompt": "How many?", "response": response}, HERE)
    answer = document.messages[1]
    assert document.effort == "high" and answer.content == "72"
    assert answer.reasoning == "She has 48/2 = 24 clips.\nIn all 72."


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
    document = to_document({"id": "x", "messages": messages}, HERE)
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
    assert to_document({"messages": [USER]}, HERE) is None
    assert to_document({"messages": [ASSISTANT]}, HERE) is None
    assert to_document({"messages": [USER, ASSISTANT, ASSISTANT]}, HERE) is None
    ended = to_document({"messages": [USER, ASSISTANT, USER]}, HERE)
    assert [m.role for m in ended.messages] == ["user", "assistant"]


@pytest.mark.parametrize("record", [{"body": "x"}, {"prompt": "q"}, {"text": 3}, {"messages": 3}])
def test_unknown_shapes_are_refused(record):
    with pytest.raises(DataError, match="record has keys"):
        to_document(record, HERE)
