"""Recorded conversations as problems."""

from dsv4.encoding.events import Reply
from dsv4.encoding.messages import Message, ToolCall
from dsv4.encoding.parse import parse
from dsv4.tasks.replay import call_problems

TOOLS = ({"name": "look", "parameters": {"type": "object", "properties": {}}},)


def test_every_call_of_a_conversation_is_a_problem():
    messages = (
        Message("user", "a"),
        Message("assistant", "", tool_calls=(ToolCall("look", {"at": "x", "deep": [1]}, "c0"),)),
        Message("tool", "seen", tool_call_id="c0"),
        Message("assistant", "Well.", tool_calls=(ToolCall("look", None, "c1"),)),
        Message("tool", "more", tool_call_id="c1"),
        Message("assistant", "Done."),
    )
    first, second = call_problems("coffee", messages, TOOLS)
    assert first.messages == messages[:1] and second.messages == messages[:3]
    for problem in (first, second):
        assert problem.task == "coffee" and problem.tools == TOOLS and not problem.thinking
        read = parse(problem.answer().spans, thinking=False)
        assert read == problem.reply and problem.grade(read).score == 1
    other = Reply(None, "", (ToolCall("look", '{"at": "y", "deep": [1]}'),))
    assert first.grade(other).score == 0.5
