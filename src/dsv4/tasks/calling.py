"""Tool calls over invented tools: which one, with what arguments, and what to say afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from dsv4.encoding.dsml import json_text
from dsv4.encoding.events import Reply
from dsv4.encoding.messages import Message, ToolCall
from dsv4.tasks.checks import Calls, Check, Mentions
from dsv4.tasks.problem import Ask, Effort, Problem, Split, Task, pick_effort
from dsv4.tasks.toolbox import Tool, draw_arguments, draw_tools, request
from dsv4.tasks.words import CITIES, COLOURS, NAMES, article, varied

_SYSTEMS = (
    "", "", "", "You are a helpful assistant.", "Use the tools when they help.",
    "You can call tools for the user.", "Answer briefly.", "You are an assistant with tools.",
)  # fmt: skip

_JOINS = ("{a} {b}", "{a} Then {c}", "{a} After that, {c}", "{a} Also, {c}", "{a} And then {c}")

_PLAIN = (
    ("Hello!", ("Hello! How can I help you?", "Hello! What can I do for you?"), "help/do"),
    ("Hi there.", ("Hi! How can I help you?", "Hi! What can I do for you today?"), "help/do"),
    ("Good morning!", ("Good morning! How can I help you?",), "morning"),
    ("Thank you!", ("You are welcome!", "You are welcome. Is there anything else?"), "welcome"),
    ("Thanks, that is all.", ("You are welcome! Have a good day.",), "welcome"),
    ("How are you?", ("I am doing well, thank you. How can I help you?",), "well/fine"),
    (
        "Goodbye!",
        ("Goodbye! Have a nice day.", "Goodbye! It was nice to talk with you."),
        "goodbye",
    ),
    ("Who are you?", ("I am nano, a very small language model.",), "nano"),
    ("That is great.", ("I am glad to hear that.",), "glad/happy"),
    ("What colour is the sky on a clear day?", ("The sky is blue on a clear day.",), "blue"),
    ("How many days does a week have?", ("A week has seven days.",), "seven/7"),
    ("What is 2 + 2?", ("2 + 2 is 4.",), "4/four"),
    ("Name an animal that can fly.", ("A bird can fly, for example an owl.",), "bird/owl/bee/bat"),
    ("Say something nice.", ("I hope that you have a wonderful day.",), "wonderful/nice/good"),
    ("Which day comes after Monday?", ("Tuesday comes after Monday.",), "tuesday"),
    ("What is the opposite of hot?", ("The opposite of hot is cold.",), "cold"),
)
"""What needs no tool, replies to it, and words of which a good reply has one."""


def make_call(rng: Random, split: Split, ask: Ask) -> Problem:
    """One of several tools is to be called once."""
    level = ask.level or rng.randint(1, 4)
    tools = draw_tools(rng, split, rng.randint(1, level + 1))
    chosen = rng.choice(tools)
    arguments = draw_arguments(rng, split, chosen)
    said = request(rng, chosen, arguments)
    return _calling("tool_call", rng, ask, tools, said, [(chosen, arguments)])


def make_calls(rng: Random, split: Split, ask: Ask) -> Problem:
    """Two calls in one reply, of two tools or twice of one; in training half of the time three or
    four, for more to learn from the same tools."""
    tools = draw_tools(rng, split, rng.randint(2, (ask.level or 2) + 1))
    chosen = rng.sample(tools, 2) if rng.random() < 0.7 else [rng.choice(tools)] * 2
    if split == "train" and rng.random() < 0.5:
        chosen += rng.choices(tools, k=rng.randint(1, 2))
    wanted = [(tool, draw_arguments(rng, split, tool)) for tool in chosen]
    said, *others = [request(rng, tool, arguments) for tool, arguments in wanted]
    for other in others:
        lower = other if other.startswith("I ") else other[0].lower() + other[1:]
        said = rng.choice(_JOINS).format(a=said, b=other, c=lower)
    return _calling("tool_calls", rng, ask, tools, said, wanted)


def make_plain(rng: Random, split: Split, ask: Ask) -> Problem:
    """Tools are there, but the user asks for nothing that they do."""
    tools = draw_tools(rng, split, rng.randint(1, ask.level or 3))
    question, answers, words = rng.choice(_PLAIN)
    effort = pick_effort(rng, ask)
    answer = rng.choice(answers)
    reasoning = "No tool is needed for this. I answer directly."
    if effort == "max":
        reasoning = f"The tools are {_names(tools)}. None of them is asked for. " + reasoning
    return _problem(
        "tool_none", rng, (Message("user", question),), Reply(reasoning, answer),
        Mentions((tuple(words.split("/")),), sentence=True), effort, tools,
    )  # fmt: skip


def make_result(rng: Random, split: Split, ask: Ask) -> Problem:
    """The turn after a tool's result: the answer stands in the result."""
    tools = draw_tools(rng, split, rng.randint(1, ask.level or 3))
    effort = pick_effort(rng, ask)
    messages, result, answer, wanted = _used(rng, split, tools, effort, 0)
    reasoning = _read(result, effort)
    check = Mentions(tuple((word,) for word in wanted), sentence=True)
    return _problem("tool_result", rng, messages, Reply(reasoning, answer), check, effort, tools)


def make_session(rng: Random, split: Split, ask: Ask) -> Problem:
    """A call after other calls in the same conversation."""
    level = ask.level or rng.randint(1, 4)
    tools = draw_tools(rng, split, rng.randint(1, level + 1))
    effort = pick_effort(rng, ask)
    messages: list[Message] = []
    for number in range(level):
        used, result, answer, _ = _used(rng, split, tools, effort, number)
        reasoning = None if effort == "off" else _read(result, effort)
        messages += [*used, Message("assistant", answer, reasoning)]
    chosen = rng.choice(tools)
    arguments = draw_arguments(rng, split, chosen)
    call = ToolCall(chosen.name, json_text(arguments))
    messages.append(Message("user", request(rng, chosen, arguments)))
    reply = Reply(_thought([chosen], tools, effort), "", (call,))
    check = Calls((call,))
    return _problem("tool_session", rng, tuple(messages), reply, check, effort, tools)


def _used(
    rng: Random, split: Split, tools: list[Tool], effort: Effort, number: int
) -> tuple[tuple[Message, ...], dict[str, Any], str, list[str]]:
    """A request, the call for it and the tool's result as messages; the result, an answer from
    it, and the words the answer must have. number: of the call in its conversation."""
    tool = rng.choice(tools)
    arguments = draw_arguments(rng, split, tool)
    result, answer, wanted = _result(rng, split, tool)
    call = ToolCall(tool.name, json_text(arguments), f"call_{number:02}")
    thought = None if effort == "off" else _thought([tool], tools, effort)
    messages = (
        Message("user", request(rng, tool, arguments)),
        Message("assistant", "", thought, (call,)),
        Message("tool", json.dumps(result), tool_call_id=call.id),
    )
    return messages, result, answer, wanted


def _read(result: dict[str, Any], effort: Effort) -> str:
    """What is thought of a result."""
    reasoning = f"The result says: {json.dumps(result)[1:-1]}. I tell the user."
    if effort == "max":
        reasoning += " Nothing else is asked, so no further call is needed."
    return reasoning


def _result(rng: Random, split: Split, tool: Tool) -> tuple[dict[str, Any], str, list[str]]:
    """What a tool gave back, the answer to it, and the words the answer must have."""
    noun = tool.noun
    number = rng.randint(2, 999)
    person, city = varied(rng, NAMES, split), varied(rng, CITIES, split)
    colour = varied(rng, COLOURS, split)
    if rng.random() < 0.15:
        reason = rng.choice(("not found", "already closed", "no longer available", "out of order"))
        return {"status": "error", "reason": reason}, rng.choice(
            (f"That did not work: the {noun} is {reason}.",
             f"I am sorry, the {noun} is {reason}.", f"It failed, because the {noun} is {reason}.")
        ), [reason]  # fmt: skip
    kinds: tuple[tuple[dict[str, Any], tuple[str, ...], list[str]], ...] = (
        ({"status": "ok", "id": number},
         ("Done. The {noun} has the number {number}.", "It is done. The number is {number}."),
         [str(number)]),
        ({"status": "ok", "contact": person},
         ("Done. {person} is the contact for the {noun}.",
          "It is done, and the contact is {person}."),
         [person]),
        ({"noun": noun, "place": city},
         ("The {noun} is in {city}.", "You can find the {noun} in {city}."), [city]),
        ({"count": number, "place": city},
         ("There are {number} in {city}.", "I found {number} in {city}."), [str(number), city]),
        ({"status": "ok", "color": colour, "price": number},
         ("The {noun} is {colour} and costs {number}.",
          "It is {colour}, and the price is {number}."), [colour, str(number)]),
    )  # fmt: skip
    result, answers, wanted = rng.choice(kinds)
    words = {"noun": noun, "number": number, "person": person, "city": city, "colour": colour}
    return result, rng.choice(answers).format(**words), wanted


def _calling(
    name: str,
    rng: Random,
    ask: Ask,
    tools: list[Tool],
    said: str,
    wanted: Sequence[tuple[Tool, Mapping[str, Any]]],
) -> Problem:
    calls = tuple(ToolCall(tool.name, json_text(arguments)) for tool, arguments in wanted)
    effort = pick_effort(rng, ask, off=1 / 3, high=1 / 3)
    reply = Reply(_thought([tool for tool, _ in wanted], tools, effort), "", calls)
    return _problem(name, rng, (Message("user", said),), reply, Calls(calls), effort, tools)


def _problem(
    name: str,
    rng: Random,
    messages: tuple[Message, ...],
    reply: Reply,
    check: Check,
    effort: Effort,
    tools: list[Tool],
) -> Problem:
    system = rng.choice(_SYSTEMS)
    before = (Message("system", system),) if system else ()
    if effort == "off":
        reply = Reply(None, reply.content, reply.tool_calls)
    shown = tuple(tool.function for tool in tools)
    return Problem(name, (*before, *messages), reply, check, effort, shown)


def _thought(wanted: Sequence[Tool], tools: list[Tool], effort: Effort) -> str:
    """Which tool for what. Names and values of arguments are not written here: a small model that
    did so made more mistakes in calls than without thinking."""
    thought = " ".join(
        f"The user wants to {tool.verb} {article(tool.noun)}: {tool.name}." for tool in wanted
    )
    return f"The tools are {_names(tools)}. {thought}" if effort == "max" else thought


def _names(tools: list[Tool]) -> str:
    return ", ".join(tool.name for tool in tools)


TASKS = (
    Task("tool_call", "call the right one of several invented tools", make_call),
    Task("tool_calls", "two tool calls in one reply (training: up to four)", make_calls),
    Task("tool_none", "tools are there, but none is needed", make_plain),
    Task("tool_result", "answer from the result of a tool", make_result),
    Task("tool_session", "call a tool after other calls in the same conversation", make_session),
)
