"""Records of corpus files as documents."""

import json
from pathlib import Path

import pytest

from dsv4.data.coffee import COFFEE_TOOLS
from dsv4.data.documents import Conversation, Text, encode_document, exchange
from dsv4.data.records import to_documents
from dsv4.encoding.control import CONTROL_TOKENS, DSML, EOS, THINK_CLOSE
from dsv4.encoding.messages import Message, ToolCall
from dsv4.errors import DataError

HERE = Path("file.jsonl")
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
LOOK = {"name": "look", "parameters": {"type": "object", "properties": {}}}


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


def test_a_call_after_a_word_joins_it_and_tools_of_the_record_win():
    messages = [USER, {"role": "assistant", "content": "Let me look."}, call("look", at="x")]
    document = one({"messages": messages, "tools": [LOOK]}, HERE)
    (said,) = document.messages[1:]
    assert said.content == "Let me look." and said.tool_calls[0].arguments == {"at": "x"}
    assert document.tools == (LOOK,)


def calling(arguments='{"at": [1]}', id="call_1", **more):
    made = {"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [made], **more}


def answering(id="call_1", content="seen"):
    return {"role": "tool", "tool_call_id": id, "content": content}


def learned(document):
    """The learned pieces of a document; control tokens are negative, others code points."""

    class Letters:
        def encode(self, text):
            return [ord(letter) for letter in text]

        def control_id(self, token):
            return -1 - CONTROL_TOKENS.index(token)

    ids, marks = encode_document(Letters(), document)
    text = [CONTROL_TOKENS[-1 - i] if i < 0 else chr(i) for i in ids]
    shown = "".join(part if mark else "\0" for part, mark in zip(text, marks, strict=True))
    return [piece for piece in shown.split("\0") if piece]


def test_reasoning_calls_and_results_of_the_api_are_read():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        calling(content=None, reasoning_content="I think.\n"),
        answering(),
        {"role": "assistant", "content": "There.", "reasoning_content": "Seen."},
    ]
    tool = {"type": "function", "function": LOOK}
    document = one({"tools": [tool], "messages": messages}, HERE)
    assert document == Conversation(
        (
            Message("system", "Be brief."),
            Message("user", "Where?"),
            Message("assistant", "", "I think.", (ToolCall("look", '{"at": [1]}', "call_1"),)),
            Message("tool", "seen", tool_call_id="call_1"),
            Message("assistant", "There.", "Seen."),
        ),
        (LOOK,),
        "high",
    )
    assert learned(document) == [
        f"I think.{THINK_CLOSE}\n\n<{DSML}tool_calls>\n"
        f'<{DSML}invoke name="look">\n'
        f'<{DSML}parameter name="at" string="false">[1]</{DSML}parameter>\n'
        f"</{DSML}invoke>\n</{DSML}tool_calls>{EOS}",
        f"Seen.{THINK_CLOSE}There.{EOS}",
    ]
    assert one({"tools": [LOOK], "messages": messages}, HERE) == document


def test_a_word_and_the_calls_after_it_are_one_message():
    word, done = ({"role": "assistant", "content": said} for said in ("One moment.", "Done."))
    results = [answering(id="a"), answering(id="b")]
    said = [USER, word, calling(id="a"), calling(id="b"), *results, done]
    _, first, *_, last = one({"messages": said}, HERE).messages
    assert first.content == "One moment." and [c.id for c in first.tool_calls] == ["a", "b"]
    assert last.content == "Done."


def test_only_reasoning_that_is_shown_makes_a_conversation_think():
    thought = {**ASSISTANT, "reasoning_content": "Hm."}
    early, late = [USER, thought, USER, ASSISTANT], [USER, ASSISTANT, USER, thought]
    plain, thinking = (one({"messages": said}, HERE) for said in (early, late))
    assert (plain.effort, thinking.effort) == ("off", "high")
    assert learned(plain) == [f"hello{EOS}"] * 2
    assert learned(thinking) == [f"hello{EOS}", f"Hm.{THINK_CLOSE}hello{EOS}"]
    with_tools = one({"messages": early, "tools": [LOOK]}, HERE)
    assert with_tools.effort == "high"
    assert learned(with_tools) == [f"Hm.{THINK_CLOSE}hello{EOS}", f"{THINK_CLOSE}hello{EOS}"]


@pytest.mark.parametrize("said", [{"content": None}, {}, {"content": ""}, {"content": []}])
def test_beside_calls_content_may_be_missing(said):
    document = one({"messages": [USER, calling(**said)], "tools": [LOOK]}, HERE)
    assert document.messages[1].content == "" and document.effort == "off"
    assert document.messages[1].tool_calls[0].name == "look"


def test_content_in_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    said = {"role": "user", "content": parts}
    assert one({"messages": [said, ASSISTANT]}, HERE) == exchange("a\n\nb", "hello")


def test_keys_without_a_value_say_nothing():
    said = [{**USER, "tool_calls": None, "name": ""}, {**ASSISTANT, "refusal": None, "audio": []}]
    assert one({"messages": said, "tools": None}, HERE) == exchange("hi", "hello")


def test_later_system_text_stands_where_a_served_model_meets_it():
    later = {"role": "system", "content": "Be kind."}
    document = one({"messages": [USER, later, ASSISTANT]}, HERE)
    assert document.messages[1] == Message("user", "Be kind.")
    assert learned(document) == [f"hello{EOS}"]


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


@pytest.mark.parametrize(
    ("messages", "wrong"),
    [
        ([USER, {**ASSISTANT, "weight": 0}], r"message 1 \('assistant'\) has weight"),
        ([{**USER, "reasoning_content": "r"}, ASSISTANT], "message 0 .* has reasoning_content"),
        ([{"role": "bot", "content": "x"}, ASSISTANT], "message 0 has unknown role 'bot'"),
        ([{"role": "user", "content": None}, ASSISTANT], "message 0 .* has null content"),
        ([IMAGE, ASSISTANT], "message 0: content parts of type 'image_url'"),
        ([USER, {"role": "assistant", "content": None}], "message 1 .* neither content nor"),
        ([USER, {**ASSISTANT, "reasoning_content": 3}], "message 1: reasoning must be a string"),
        ([USER, calling("{")], "message 1 .*arguments of look are no JSON object: '{'"),
        ([USER, calling("[1]")], "message 1 .*arguments of look are no JSON object"),
        ([USER, calling([1])], r"message 1: arguments of tool_calls\[0\] are no string or object"),
        ([USER, calling(), answering("call_2"), ASSISTANT], "message 2 .* answers 'call_2'"),
        ([USER, calling(), answering(None), ASSISTANT], "message 2 .* answers None"),
        (
            [USER, calling(), answering(), ASSISTANT, USER, answering(), ASSISTANT],
            "message 5 .* answers",
        ),
    ],
)
def test_what_would_be_lost_is_refused(messages, wrong):
    with pytest.raises(DataError, match=f"file.jsonl: {wrong}"):
        to_documents({"messages": messages}, HERE)


def test_tools_that_are_no_functions_are_refused():
    with pytest.raises(DataError, match=r"file.jsonl: tools\[0\] is no function"):
        to_documents({"messages": [USER, ASSISTANT], "tools": [{"type": "web_search"}]}, HERE)


def test_a_conversation_needs_a_user_and_an_answer():
    assert to_documents({"messages": []}, HERE) == to_documents({"messages": [USER]}, HERE) == ()
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
