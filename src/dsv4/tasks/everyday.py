"""The tools that people try first: weather, time, e-mail, timers, search, music and the like."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from dsv4.encoding.dsml import json_text
from dsv4.encoding.events import Reply
from dsv4.encoding.messages import Message, ToolCall
from dsv4.tasks.checks import Calls, Check, Mentions
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, pick_effort
from dsv4.tasks.words import ANIMALS, CITIES, DAYS, FOODS, NAMES, THINGS, invent, varied

Values = dict[str, Any]


@dataclass(frozen=True)
class Everyday:
    """A well-known tool.

    names: what programs call it. parameters: name -> (JSON type, description), all required.
    draw: values for them. asked: requests, with the values in braces. result and told: what it
    gives back and an answer to that, `key` the value in the result that the answer must have.
    """

    names: tuple[str, ...]
    about: str
    parameters: Mapping[str, tuple[str, str]]
    draw: Callable[[Random, Split], Values]
    asked: tuple[str, ...]
    result: Callable[[Random, Values], Values]
    told: tuple[str, ...]
    key: str

    def function(self, name: str) -> Mapping[str, Any]:
        """The function object under one of its names."""
        properties = {
            key: {"type": kind, "description": about}
            for key, (kind, about) in self.parameters.items()
        }
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return {"name": name, "description": self.about, "parameters": schema}


def _city(rng: Random, split: Split) -> Values:
    return {"city": varied(rng, CITIES, split)}


def _subject(rng: Random, split: Split) -> str:
    """Something to search or to play."""
    return f"{varied(rng, ANIMALS, split)} {rng.choice(THINGS)}"


def _message(rng: Random, split: Split) -> str:
    thing = varied(rng, THINGS, split)
    return rng.choice((f"I found your {thing}", f"please bring the {thing}",
                       f"the {thing} is ready", f"thank you for the {thing}"))  # fmt: skip


_CURRENCIES = ("EUR", "USD", "GBP", "CHF", "JPY", "SEK", "CAD", "INR")
_GOODS = tuple(food for food in FOODS if food.endswith("s"))  # what can be counted

_TOOLS = (
    Everyday(
        ("get_weather", "weather", "get_current_weather", "check_weather"),
        "Get the current weather in a city.",
        {"city": ("string", "Name of the city")},
        _city,
        ("What is the weather in {city}?", "How is the weather in {city}?",
         "Is it warm in {city}?", "What's the weather like in {city} today?",
         "Tell me the weather in {city}.", "Does it rain in {city}?", "How cold is it in {city}?",
         "Weather in {city}?"),
        lambda rng, values: {
            "temperature": rng.randint(-9, 38),
            "sky": rng.choice(("sunny", "cloudy", "rainy", "windy", "foggy")),
        },
        ("It is {temperature} degrees and {sky} in {city}.",
         "In {city} it is {sky}, with {temperature} degrees."),
        "temperature",
    ),
    Everyday(
        ("get_time", "current_time", "get_current_time"),
        "Get the current time in a city.",
        {"city": ("string", "Name of the city")},
        _city,
        ("What time is it in {city}?", "Tell me the time in {city}.",
         "How late is it in {city}?", "What is the time in {city} now?",
         "Can you check the time in {city}?", "Time in {city}?",
         "I need the current time in {city}.", "Do you know what time it is in {city}?"),
        lambda rng, values: {"time": f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"},
        ("It is {time} in {city}.", "In {city} it is {time} now."),
        "time",
    ),
    Everyday(
        ("send_email", "send_mail", "email"),
        "Send an e-mail.",
        {"to": ("string", "Name of the receiver"), "text": ("string", "Text of the e-mail")},
        lambda rng, split: {"to": varied(rng, NAMES, split), "text": _message(rng, split)},
        ('Send an email to {to} with the text "{text}".', 'Write to {to}: "{text}".',
         'Email {to} and say "{text}".', 'Please send {to} an e-mail saying "{text}".',
         'Can you mail {to} this: "{text}"?', 'Tell {to} by email "{text}".',
         'I want to send {to} the message "{text}".', 'Send "{text}" to {to}.'),
        lambda rng, values: {"sent": True, "id": rng.randint(100, 9999)},
        ("I sent the e-mail to {to}.", "Done, {to} will get your e-mail."),
        "to",
    ),
    Everyday(
        ("set_timer", "start_timer", "timer"),
        "Start a timer.",
        {"minutes": ("integer", "Length in minutes")},
        lambda rng, split: {"minutes": _number(rng, split, 2, 180)},
        ("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.",
         "Wake me in {minutes} minutes.", "Timer, {minutes} minutes.",
         "Please set the timer to {minutes} minutes.", "I need a timer for {minutes} minutes.",
         "Count down {minutes} minutes.", "Can you time {minutes} minutes for me?"),
        lambda rng, values: {"status": "started", "minutes": values["minutes"]},
        ("The timer is set for {minutes} minutes.", "I started a timer of {minutes} minutes."),
        "minutes",
    ),
    Everyday(
        ("search", "web_search", "search_web", "google"),
        "Search the web.",
        {"query": ("string", "What to search for")},
        lambda rng, split: {"query": _subject(rng, split)},
        ('Search for "{query}".', "Look up {query} on the web.", "Find something about {query}.",
         "Search the web for {query}.", "Can you search {query}?", "Please look for {query}.",
         "What can you find about {query}?", "Google {query}."),
        lambda rng, values: {"results": rng.randint(2, 900), "best": f"{invent(rng, 2)}.example"},
        ("I found {results} pages about {query}. The best one is {best}.",
         "There are {results} results. The first is {best}."),
        "results",
    ),
    Everyday(
        ("calculate", "calculator", "compute"),
        "Work out a sum.",
        {"expression": ("string", "The sum")},
        lambda rng, split: {
            "expression": f"{_number(rng, split, 12, 9999)} {rng.choice('+-*')} "
            f"{rng.randint(12, 999)}"
        },
        ("What is {expression}?", "Calculate {expression}.", "Work out {expression}.",
         "How much is {expression}?", "Use the calculator for {expression}.",
         "Please compute {expression}.", "I need the result of {expression}.", "{expression} = ?"),
        lambda rng, values: {"result": _value(values["expression"])},
        ("{expression} = {result}", "The result is {result}."),
        "result",
    ),
    Everyday(
        ("play_music", "play_song", "play"),
        "Play a song.",
        {"title": ("string", "Title of the song")},
        lambda rng, split: {"title": _subject(rng, split).title()},
        ('Play "{title}".', 'Play the song "{title}", please.', 'I want to hear "{title}".',
         'Can you play "{title}"?', 'Put on "{title}".', 'Start the song "{title}".',
         'Let me hear "{title}".', 'Music, please: "{title}".'),
        lambda rng, values: {"playing": values["title"], "artist": invent(rng, 2).capitalize()},
        ('Now playing "{title}" by {artist}.', 'I am playing "{title}".'),
        "title",
    ),
    Everyday(
        ("add_to_list", "add_item", "shopping_list_add"),
        "Put an item on the shopping list.",
        {"item": ("string", "What to buy"), "count": ("integer", "How many")},
        lambda rng, split: {
            "item": varied(rng, _GOODS, split), "count": _number(rng, split, 2, 30)
        },
        ("Put {count} {item} on my shopping list.", "Add {count} {item} to the list.",
         "I need to buy {count} {item}.", "Please add {count} {item} to my shopping list.",
         "Write {count} {item} on the list.", "We need {count} {item}. Add it to the list.",
         "Can you put {count} {item} on the list?", "Shopping list: {count} {item}."),
        lambda rng, values: {"status": "ok", "entries": rng.randint(1, 40)},
        ("I put {count} {item} on the list.", "Done. The list now has {entries} entries."),
        "entries",
    ),
    Everyday(
        ("create_reminder", "remind", "set_reminder"),
        "Remind the user of something on a day.",
        {"text": ("string", "What to remember"), "day": ("string", "Day of the week")},
        lambda rng, split: {"text": _message(rng, split), "day": rng.choice(DAYS)},
        ('Remind me on {day}: "{text}".', 'Set a reminder "{text}" for {day}.',
         'On {day}, remind me "{text}".', 'Please make a reminder for {day}: "{text}".',
         'I must not forget "{text}" on {day}.', 'Add the reminder "{text}" on {day}.',
         'Can you remind me "{text}" on {day}?', 'Reminder for {day}: "{text}".'),
        lambda rng, values: {"status": "saved", "day": values["day"]},
        ("I will remind you on {day}.", "The reminder for {day} is saved."),
        "day",
    ),
    Everyday(
        ("convert_currency", "exchange", "convert_money"),
        "Convert an amount of money into another currency.",
        {"amount": ("number", "How much"), "from": ("string", "Currency"),
         "to": ("string", "Currency")},
        lambda rng, split: dict(
            zip(("amount", "from", "to"),
                (_number(rng, split, 2, 900), *rng.sample(_CURRENCIES, 2)), strict=True)),
        ("Convert {amount} {from} to {to}.", "How much is {amount} {from} in {to}?",
         "What are {amount} {from} in {to}?", "Change {amount} {from} into {to}.",
         "I have {amount} {from}. How much is that in {to}?",
         "Please convert {amount} {from} into {to}.", "{amount} {from} in {to}?",
         "Tell me what {amount} {from} is worth in {to}."),
        lambda rng, values: {"value": round(values["amount"] * rng.randint(20, 300) / 100, 2)},
        ("{amount} {from} is {value} {to}.", "That is {value} {to}."),
        "value",
    ),
)  # fmt: skip


def _number(rng: Random, split: Split, low: int, high: int) -> int:
    while True:
        number = rng.randint(low, high)
        if belongs(str(number), split):
            return number


def _value(expression: str) -> int:
    a, sign, b = expression.split()
    x, y = int(a), int(b)
    return x + y if sign == "+" else x - y if sign == "-" else x * y


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """A request for one of these tools, or the answer after its result. Held out are values."""
    count = rng.randint(1, (ask.level or 2) + 1)
    drawn = rng.sample(_TOOLS, count)
    names = [rng.choice(tool.names) for tool in drawn]
    functions = [tool.function(name) for tool, name in zip(drawn, names, strict=True)]
    tool, name = drawn[0], names[0]
    rng.shuffle(functions)
    values = tool.draw(rng, split)
    said = rng.choice(tool.asked).format(**values)
    effort = pick_effort(rng, ask)
    thought = f"{tool.about[:-1]}: {name}."
    if effort == "max":
        thought = f"The tools are {', '.join(one['name'] for one in functions)}. {thought}"
    call = ToolCall(name, json_text(values))
    messages: tuple[Message, ...] = (Message("user", said),)
    reply = Reply(thought, "", (call,))
    check: Check = Calls((call,))
    if rng.random() < 0.4:
        messages, reply, check = _after(rng, tool, values, messages, reply)
    if effort == "off":
        reply = Reply(None, reply.content, reply.tool_calls)
        messages = tuple(_without_reasoning(message) for message in messages)
    return Problem("everyday_tool", messages, reply, check, effort, tuple(functions))


def _after(
    rng: Random, tool: Everyday, values: Values, asked: tuple[Message, ...], reply: Reply
) -> tuple[tuple[Message, ...], Reply, Check]:
    """The turn after the call: its result, and the answer from it."""
    result = tool.result(rng, values)
    shown = json.dumps(result)
    (call,) = reply.tool_calls
    made = Message("assistant", "", reply.reasoning, (ToolCall(call.name, call.arguments, "c0"),))
    told = rng.choice(tool.told)
    wanted = str((values | result)[tool.key])
    if "{" + tool.key + "}" not in told:  # this answer says something else of the result
        told = tool.told[0] if "{" + tool.key + "}" in tool.told[0] else tool.told[1]
    content = told.format(**(values | result))
    messages = (*asked, made, Message("tool", shown, tool_call_id="c0"))
    reasoning = f"The result says: {shown[1:-1]}. I tell the user."
    return messages, Reply(reasoning, content), Mentions(((wanted,),), longest=30)


def _without_reasoning(message: Message) -> Message:
    if message.role != "assistant":
        return message
    return Message("assistant", message.content, tool_calls=message.tool_calls)


TASK = Task("everyday_tool", "weather, time, e-mail and other tools that people try first", make)
