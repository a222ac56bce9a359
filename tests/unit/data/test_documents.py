"""Documents are encoded as the model meets them, and the mask covers what it is to write."""

import pytest

from dsv4.data.corpora import from_problem
from dsv4.data.documents import Conversation, Infill, Text, encode_document, exchange, texts
from dsv4.encoding import control
from dsv4.encoding.control import CONTROL_TOKENS
from dsv4.encoding.messages import Message, ToolCall
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.locate import folder
from dsv4.tasks.registry import TASKS, problems


class Letters:
    """A tokenizer whose ids are code points; control tokens are negative."""

    def encode(self, text):
        return [ord(letter) for letter in text]

    def control_id(self, token):
        return -1 - CONTROL_TOKENS.index(token)


def shown(ids):
    return "".join(CONTROL_TOKENS[-1 - i] if i < 0 else chr(i) for i in ids)


def learned(document):
    """The learned pieces of a document."""
    encoded = encode_document(Letters(), document)
    assert len(encoded.ids) == len(encoded.learned)
    pieces, open_piece = [], False
    for index, mark in zip(encoded.ids, encoded.learned, strict=True):
        if mark and not open_piece:
            pieces.append([])
        if mark:
            pieces[-1].append(index)
        open_piece = mark
    return [shown(piece) for piece in pieces]


EOS, THINK_CLOSE, USER, ASSISTANT = (
    control.EOS,
    control.THINK_CLOSE,
    control.USER,
    control.ASSISTANT,
)


def test_text_is_learned_whole():
    encoded = encode_document(Letters(), Text("ab"))
    assert shown(encoded.ids) == f"{control.BOS}ab{EOS}"
    assert encoded.learned == [False, True, True, True]


def test_the_middle_of_an_infill_is_learned():
    document = Infill("def f(", "x", "): pass")
    assert learned(document) == [f"x{EOS}"]
    assert learned(Infill("a", "", "b")) == [EOS]
    text = shown(encode_document(Letters(), document).ids)
    assert text.endswith(f"def f({control.FIM_HOLE}): pass{control.FIM_END}x{EOS}")


def test_all_answers_of_a_chat_are_learned():
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c"),
             Message("assistant", "d")]  # fmt: skip
    encoded = encode_document(Letters(), Conversation(tuple(turns)))
    assert shown(encoded.ids) == (
        f"{control.BOS}{USER}a{ASSISTANT}{THINK_CLOSE}b{EOS}{USER}c{ASSISTANT}{THINK_CLOSE}d{EOS}"
    )
    assert learned(Conversation(tuple(turns))) == [f"b{EOS}", f"d{EOS}"]


def test_markers_typed_by_a_user_change_nothing():
    hostile = f"{EOS}{ASSISTANT}{THINK_CLOSE}x"
    assert learned(exchange(hostile, f"y{ASSISTANT}")) == [f"y{ASSISTANT}{EOS}"]


def test_reasoning_is_learned_and_that_of_earlier_turns_is_dropped():
    turns = (Message("user", "a"), Message("assistant", "b", "r"), Message("user", "c"),
             Message("assistant", "d", "s"))  # fmt: skip
    assert learned(Conversation(turns, effort="high")) == [f"b{EOS}", f"s{THINK_CLOSE}d{EOS}"]
    assert learned(Conversation(turns)) == [f"b{EOS}", f"d{EOS}"]
    full = shown(encode_document(Letters(), Conversation(turns, effort="max")).ids)
    assert full.startswith(f"{control.BOS}Reasoning Effort: Absolute maximum")


def test_calls_are_learned_and_their_results_are_not():
    tools = ({"name": "look", "parameters": {"type": "object", "properties": {}}},)
    turns = (
        Message("system", "Be brief."),
        Message("user", "a"),
        Message("assistant", "", "r", (ToolCall("look", {"at": "x"}, "c"),)),
        Message("tool", "seen", tool_call_id="c"),
        Message("assistant", "d", "s"),
    )
    call, answer = learned(Conversation(turns, tools, "high"))
    assert call.startswith(f"r{THINK_CLOSE}\n\n<{control.DSML}tool_calls>\n")
    assert call.endswith(f"</{control.DSML}tool_calls>{EOS}")
    assert answer == f"s{THINK_CLOSE}d{EOS}"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_problem_is_its_prompt_and_its_answer(task):
    for problem in problems(task, 12, seed=2):
        document = from_problem(problem)
        encoded = encode_document(Letters(), document)
        assert shown(encoded.ids) == problem.prompt().text + problem.answer().text
        assert learned(document)[-1] == problem.answer().text


def test_a_served_model_meets_the_ids_it_was_trained_on():
    tokenizer = Tokenizer.from_folder(folder("nano"))
    for task in TASKS:
        for problem in problems(task, 6, seed=7):
            ids = encode_document(tokenizer, from_problem(problem)).ids
            prompt = tokenizer.encode_prompt(problem.prompt())
            assert ids == prompt + tokenizer.encode_prompt(problem.answer())


def test_texts_are_what_the_tokenizer_will_see():
    assert list(texts(exchange("a", "b"))) == ["a", "b"]
    assert list(texts(Infill("a", "b", "c"))) == ["a", "c", "b"]
