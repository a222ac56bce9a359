"""Tasks whose answers follow from their text: recomputed here by other means."""

import json
import re
from random import Random

import pytest

from dsv4.tasks import infill, repeating, toolbox
from dsv4.tasks.introduction import TOPICS
from dsv4.tasks.pleasantries import PLEASANTRIES
from dsv4.tasks.problem import Ask, Split, belongs
from dsv4.tasks.registry import problems
from dsv4.tasks.words import CITIES, COLOURS, NAMES, PLACES, THINGS, part


def test_whereabouts_follow_from_the_moves():
    for problem in problems("whereabouts", 300, seed=4):
        *sentences, question = re.findall(r"[^.?]+[.?]", problem.messages[0].content)
        at, carries = {}, {}
        for sentence in sentences:
            words = re.findall(r"\w+", sentence)
            name = next(word for word in words if word in NAMES)
            thing = next((word for word in words if word in THINGS), None)
            place = next((word for word in words if word in PLACES), None)
            if place:
                at[name] = place
            elif re.search(r"puts down|drops|leaves|lets go", sentence):
                carries.pop(thing)
                at[thing] = at[name]
            else:
                carries[thing] = name
        asked = next(w for w in re.findall(r"\w+", question) if w in at or w in carries)
        expected = at[carries[asked]] if asked in carries else at[asked]
        assert expected in problem.reply.content, problem.messages[0].content


def test_word_problems_are_their_sums():
    for problem in problems("word_problem", 200, seed=2, ask=Ask(effort="high")):
        said = [int(n) for n in re.findall(r"\d+", problem.messages[0].content)]
        first, *events = re.findall(r"(\d+) (more|less|times|\w+)", _head(problem))
        value = int(first[0])
        for number, what in events:
            assert int(number) in said
            change = {"more": value + int(number), "less": value - int(number)}
            value = change.get(what, value * int(number))
        assert value == problem.check.value > 0 and int(first[0]) == said[0]


def _head(problem):
    """The line of the reasoning that says what happens."""
    return problem.reply.reasoning.splitlines()[0]


def test_python_with_its_middle_is_python():
    for problem in problems("infill", 200):
        if problem.gap.prefix.startswith(("def", "class")):
            code = problem.gap.prefix + problem.reply.content + problem.gap.suffix
            compile(code, "made", "exec")
    assert len(infill._FUNCTIONS) >= 8


def test_infills_of_given_texts():
    texts = ("One two three four five. Six seven eight nine ten.",)
    made = list(problems("infill", 40, ask=Ask(texts=texts)))
    said = [p for p in made if not p.gap.prefix.startswith(("def", "class"))]
    assert said and all(p.gap.prefix.startswith(("One", "Six")) for p in said)


def test_arguments_stand_in_the_request():
    for problem in problems("tool_call", 200, seed=5):
        said = problem.messages[-1].content
        (call,) = problem.reply.tool_calls
        (tool,) = [tool for tool in problem.tools if tool["name"] == call.name]
        arguments = json.loads(call.arguments)
        parameters = tool["parameters"]
        assert set(parameters["required"]) <= set(arguments) <= set(parameters["properties"])
        for key, value in arguments.items():
            words = value if isinstance(value, list) else [value]
            shown = ["true" if w is True else "false" if w is False else str(w) for w in words]
            assert all(word in said for word in shown), said
            kind = parameters["properties"][key]["type"]
            types = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
            assert isinstance(value, types.get(kind, list))


def calls_of(split, count=300):
    """The calls of problems, each with the function it is of."""
    for problem in problems("tool_call", count, seed=7, split=split):
        (call,) = problem.reply.tool_calls
        (tool,) = [tool for tool in problem.tools if tool["name"] == call.name]
        yield json.loads(call.arguments), tool["parameters"]["properties"]


def test_values_are_from_no_closed_list_in_training():
    for about, words in (("Name of the city", CITIES), ("Colour", COLOURS)):
        said = {
            split: [
                value
                for arguments, properties in calls_of(split)
                for name, value in arguments.items()
                if properties[name]["description"] == about
            ]
            for split in ("train", "heldout")
        }
        known = [value in words for value in said["train"]]
        assert 0.1 < sum(known) / len(known) < 0.5
        assert {*said["heldout"]} <= {*words}
        assert not {*said["heldout"]} & {*said["train"]}


def test_names_of_parameters_are_from_no_closed_list_in_training():
    usual = {name for slot in toolbox._SLOTS for name in slot.names.split()}
    named = {
        split: [name for _, properties in calls_of(split) for name in properties]
        for split in ("train", "heldout")
    }
    assert {*named["heldout"]} <= usual
    assert 0.1 < sum(name not in usual for name in named["train"]) / len(named["train"]) < 0.25


def test_tools_in_training_often_take_the_same_kinds_of_parameters():
    def alike(split: Split) -> float:
        pairs = 0
        for i in range(400):
            one, two = toolbox.draw_tools(Random(i), split, 2)
            pairs += {*one.slots.values()} <= {*two.slots.values()}
        return pairs / 400

    assert alike("train") > 2 * alike("heldout")


@pytest.mark.parametrize("task", ["tool_call", "tool_calls", "tool_session"])
def test_thinking_names_the_tools_of_the_calls_in_their_order(task: str) -> None:
    for effort in ("high", "max"):
        for problem in problems(task, 30, ask=Ask(effort=effort)):
            *_, last = problem.reply.reasoning.partition("The user wants")
            named = re.findall(r": (\w+)\.", last)
            assert named == [call.name for call in problem.reply.tool_calls]
            known = [tool["name"] for tool in problem.tools]
            assert problem.reply.reasoning.startswith(f"The tools are {', '.join(known)}. ") == (
                effort == "max"
            )


def test_replies_of_several_calls_have_two_but_up_to_four_in_training():
    for split, numbers in (("train", {2, 3, 4}), ("heldout", {2})):
        made = list(problems("tool_calls", 80, seed=3, split=split))
        assert {len(problem.reply.tool_calls) for problem in made} == numbers
        for problem in made:
            said = problem.messages[-1].content
            for call in problem.reply.tool_calls:
                values = json.loads(call.arguments).values()
                assert all(value in said for value in values if isinstance(value, str))


def test_no_word_of_training_is_held_out_of_what_is_repeated():
    words = {
        split: {
            word
            for problem in problems("repeat", 1500, seed=4, split=split)
            for word in re.findall(r"[A-Za-z]+", re.sub(r"</?\w+>", "", problem.reply.content))
        }
        for split in ("train", "heldout")
    }
    known = {word for word in repeating._REAL if belongs(f"repeat {word}", "heldout")}
    assert len(known & words["heldout"]) > 30
    assert not known & words["train"]


def test_parts_of_words_are_parts():
    made = {part(Random(i)) for i in range(300)}
    assert len(made) > 200 and all(word.islower() and 2 <= len(word) <= 6 for word in made)


def test_a_session_calls_before_it_calls():
    for problem in problems("tool_session", 50, ask=Ask(level=3)):
        roles = [m.role for m in problem.messages if m.role != "system"]
        assert roles == ["user", "assistant", "tool", "assistant"] * 3 + ["user"]
        known = {tool["name"] for tool in problem.tools}
        made = [call for message in problem.messages for call in message.tool_calls]
        assert {call.name for call in (*made, *problem.reply.tool_calls)} <= known
        answered = [m.tool_call_id for m in problem.messages if m.role == "tool"]
        assert answered == [call.id for call in made]


def test_values_that_are_looked_up_stand_beside_their_keys():
    for problem in problems("lookup", 100, seed=2):
        listed = problem.messages[-1].content.splitlines()
        lines = problem.reply.content.splitlines()
        assert 2 <= len(lines) <= 8 and {*lines} <= {*listed}


def test_what_is_repeated_was_said():
    for problem in problems("repeat", 200, seed=2):
        asked, said = problem.messages[-1].content, problem.reply.content
        if "JSON array" in asked:
            assert ", ".join(json.loads(said)) in asked
        elif said.startswith("<"):
            tag, *_ = re.findall(r"<(\w+)>", said)
            assert ", ".join(re.findall(f"<{tag}>(.*)</{tag}>", said)) in asked and tag in asked
        else:
            assert said in asked or ", ".join(said.splitlines()) in asked
        other = type(problem.reply)(None, said.swapcase() + "x")
        assert problem.grade(other).score == 0


def test_names_of_tools_are_disjoint_between_splits():
    names = [
        {tool["name"].lower().replace("_", "") for p in problems("tool_call", 500, split=split)
         for tool in p.tools}
        for split in ("train", "heldout")
    ]  # fmt: skip
    assert not names[0] & names[1] and min(map(len, names)) > 300


def test_names_of_parameters_never_clash():
    names = [name for slot in toolbox._SLOTS for name in slot.names.split()]
    assert len(names) == len(set(names))


def test_identity_answers_are_sentences_that_fit():
    for topic in (*TOPICS, *PLEASANTRIES):
        assert len(topic.questions) >= 8 and len(topic.answers) >= 4
        assert len(set(topic.questions)) == len(topic.questions)
        for answer in topic.answers:
            assert answer[0].isupper() and answer[-1] in ".!?" and "  " not in answer
            assert len(answer) < 220
    questions = [q.lower().strip("?.! ") for t in (*TOPICS, *PLEASANTRIES) for q in t.questions]
    assert {q for q in questions if questions.count(q) > 1} <= {"hello", "hi"}


def test_identity_does_not_claim_to_be_another_model():
    (problem,) = problems("identity", 1, seed=1)
    boast = type(problem.reply)(None, "I am ChatGPT, a nano small story tool made of sums.")
    assert problem.grade(boast).score == 0


@pytest.mark.parametrize("words", [NAMES, CITIES, THINGS, PLACES])
def test_word_lists_have_no_doubles(words):
    assert len(words) == len(set(words))


def test_requests_are_sentences():
    rng = Random(3)
    for _ in range(200):
        (tool,) = toolbox.draw_tools(rng, "train", 1)
        said = toolbox.request(rng, tool, toolbox.draw_arguments(rng, "train", tool))
        assert said[0].isupper() and said[-1] in ".?" and "{" not in said
