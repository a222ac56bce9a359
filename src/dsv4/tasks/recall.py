"""Finding what a text says: key-value lists, a fact in filler, a passphrase far away.

`Ask.words` sets the length of the context in words (a word is a little more than one token); what
is asked for lies at a random place in it.
"""

from __future__ import annotations

from random import Random

from dsv4.encoding.messages import Message
from dsv4.tasks.checks import Mentions
from dsv4.tasks.filler import hide
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, dialogue, pick_effort
from dsv4.tasks.words import (
    CITIES,
    COLOURS,
    FOODS,
    JOBS,
    NAMES,
    PLACES,
    THINGS,
    article,
    invent,
    listed,
    varied,
)

_LISTED = (
    "Here is a list:\n{text}\n\nWhat is the value of {key}?",
    "{text}\n\nWhat is {key}?",
    "Remember these values.\n{text}\nWhich value belongs to {key}?",
    "{text}\nTell me the value of {key}.",
    "Look at the table below.\n{text}\n\nWhat stands beside {key}?",
    "Given:\n{text}\nFind {key}.",
    "Values:\n{text}\n\nGive me the value for {key}.",
    "What is the value of {key} in this list?\n{text}",
    "I have stored this:\n{text}\nWhat did I store under {key}?",
)
_LINES = (
    "{key}: {value}",
    "{key} = {value}",
    "{key} -> {value}",
    "- {key}: {value}",
    "{key} is {value}",
)

_FACTS = (
    ("The secret number of {name} is {number}.", "What is the secret number of {name}?", "number",
     "The secret number of {name} is {number}."),
    ("{name}'s favourite colour is {colour}.", "What is {name}'s favourite colour?", "colour",
     "{name}'s favourite colour is {colour}."),
    ("{name} lives in {city}.", "Where does {name} live?", "city", "{name} lives in {city}."),
    ("{name} hid the {thing} in the {place}.", "Where did {name} hide the {thing}?", "place",
     "{name} hid the {thing} in the {place}."),
    ("The password for the {place} is {word}.", "What is the password for the {place}?", "word",
     "The password for the {place} is {word}."),
    ("{name} works as {a_job}.", "What is {name}'s job?", "job", "{name} works as {a_job}."),
    ("The {thing} in the {place} costs {number} coins.",
     "How much does the {thing} in the {place} cost?", "number",
     "The {thing} in the {place} costs {number} coins."),
    ("The special word of {city} is {word}.", "What is the special word of {city}?", "word",
     "The special word of {city} is {word}."),
    ("{name} likes {food} best of all.", "What does {name} like best of all?", "food",
     "{name} likes {food} best of all."),
    ("The magic code is {number}.", "What is the magic code?", "number",
     "The magic code is {number}."),
)  # fmt: skip
_ASKED = (
    "{text}\n\n{question}",
    "Read this text.\n\n{text}\n\n{question}",
    "{text}\n\nAnswer from the text: {question}",
    "Here is a text:\n{text}\n\nQuestion: {question}",
    "Text:\n{text}\n\n{question} Look it up in the text.",
    "I will give you a text and then ask you something.\n\n{text}\n\n{question}",
    "{question} The answer is in this text.\n\n{text}",
    "{text}\n\nNow tell me: {question}",
    "Find the answer in the text below.\n{text}\n\n{question}",
)


def make_pairs(rng: Random, split: Split, ask: Ask) -> Problem:
    """One value out of a list of keys and values."""
    pairs = _pairs(rng, split, _length(rng, ask, (8, 20, 60, 150)))
    key = rng.choice(list(pairs))
    line = rng.choice(_LINES)
    text = "\n".join(line.format(key=k, value=v) for k, v in pairs.items())
    return _recalled(
        "recall", rng, ask, rng.choice(_LISTED).format(text=text, key=key), pairs[key],
        line.format(key=key, value=pairs[key]).removeprefix("- "), pairs[key],
    )  # fmt: skip


def make_lookup(rng: Random, split: Split, ask: Ask) -> Problem:
    """The values of several keys of a list, in the order in which they are asked for."""
    pairs = _pairs(rng, split, _length(rng, ask, (8, 20, 60, 150)))
    keys = rng.sample(list(pairs), rng.randint(2, min(8, len(pairs))))
    line = rng.choice(_LINES)
    text = "\n".join(line.format(key=k, value=v) for k, v in pairs.items())
    answer = "\n".join(line.format(key=key, value=pairs[key]) for key in keys)
    effort = pick_effort(rng, ask, off=0.8, high=0.15)
    reasoning = f"I look up {len(keys)} keys in the text."
    if effort == "max":
        reasoning += " " + ", ".join(f"{key} has {pairs[key]}" for key in keys) + "."
    question = rng.choice(_LISTED).format(text=text, key=listed(keys))
    check = Mentions(tuple((pairs[key],) for key in keys))
    return dialogue("lookup", question, answer, check, effort=effort, reasoning=reasoning)


def _pairs(rng: Random, split: Split, words: int) -> dict[str, str]:
    """As many keys and values as make about `words` words."""
    count = max(2, words // 2)
    syllables = 2 if count < 1000 else 3
    pairs: dict[str, str] = {}
    numbers = rng.random() < 0.5
    real = count <= 20 and rng.random() < 0.5
    while len(pairs) < count:
        key = rng.choice(THINGS if real else NAMES) if count <= 20 else invent(rng, syllables)
        value = str(rng.randint(10, 9999)) if numbers else invent(rng, 2)
        if belongs(value, split):
            pairs.setdefault(key, value)
    return pairs


def make_needle(rng: Random, split: Split, ask: Ask) -> Problem:
    """A fact in the middle of text that has nothing to do with it."""
    words = _length(rng, ask, (50, 100, 200, 400))
    fact, question, answer, value = _fact(rng, split)
    other = _fact(rng, split)
    facts = [fact] + ([other[0]] if other[1] != question and rng.random() < 0.4 else [])
    rng.shuffle(facts)
    text = hide(rng, facts, words, ask.texts)
    asked = rng.choice(_ASKED).format(text=text, question=question)
    return _recalled("needle", rng, ask, asked, answer, fact, value)


def make_turns(rng: Random, split: Split, ask: Ask) -> Problem:
    """A fact the user told some turns ago."""
    fact, question, answer, value = _fact(rng, split)
    words = _length(rng, ask, (20, 60, 120, 240))
    messages = [
        Message("user", rng.choice(("Remember this: {}", "Please keep in mind: {}", "Note: {}",
                                    "Here is something to remember. {}")).format(fact)),
        Message("assistant", rng.choice(("I will remember that.", "All right, I have noted it.",
                                         "Good, I will keep it in mind."))),
    ]  # fmt: skip
    for _ in range(rng.randint(0, 2)):
        messages += [
            Message("user", "And here is a text: " + hide(rng, [], max(8, words // 2), ask.texts)),
            Message(
                "assistant", rng.choice(("Thank you, I have read it.", "I have read the text."))
            ),
        ]
    problem = _recalled("memory", rng, ask, question, answer, fact, value)
    return Problem("memory", (*messages, *problem.messages), problem.reply, problem.check,
                   problem.effort)  # fmt: skip


def _length(rng: Random, ask: Ask, usual: tuple[int, int, int, int]) -> int:
    """The words asked for, or the usual ones of the level with some spread."""
    if ask.words is not None:
        return ask.words
    return int(usual[(ask.level or rng.randint(1, 4)) - 1] * rng.uniform(0.6, 1.4))


def _fact(rng: Random, split: Split) -> tuple[str, str, str, str]:
    """A fact, a question for it, the answer and its telling word."""
    fact, question, key, answer = rng.choice(_FACTS)
    number = rng.randint(10, 99999)
    while not belongs(str(number), split):
        number = rng.randint(10, 99999)
    values = {
        "name": rng.choice(NAMES), "number": str(number), "colour": varied(rng, COLOURS, split),
        "city": varied(rng, CITIES, split), "thing": rng.choice(THINGS),
        "place": varied(rng, PLACES, split), "word": invent(rng, 2),
        "job": varied(rng, JOBS, split), "food": varied(rng, FOODS, split),
    }  # fmt: skip
    values["a_job"] = article(values["job"])
    while not belongs(values["word"], split):
        values["word"] = invent(rng, 2)
    return fact.format(**values), question.format(**values), answer.format(**values), values[key]


def _recalled(
    name: str, rng: Random, ask: Ask, question: str, answer: str, fact: str, value: str
) -> Problem:
    effort = pick_effort(rng, ask, off=0.7, high=0.2)
    reasoning = f'The text says: "{fact}"'
    if effort == "max":
        reasoning += f" The question asks for exactly that, so the answer is {value}."
    return dialogue(
        name,
        question,
        answer,
        Mentions(((value,),), longest=20),
        effort=effort,
        reasoning=reasoning,
    )


TASKS = (
    Task("recall", "one value out of a list of keys and values", make_pairs),
    Task("lookup", "the values of several keys of a list", make_lookup),
    Task("needle", "a fact hidden in `words` words of other text", make_needle),
    Task("memory", "a fact told some turns before", make_turns),
)
