"""What probes are made of: chances, streams put together, markup, loops, prompts of a length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.upstream import Upstream, running

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.evaluation.conformance.finding import Skipped
from dsv4.evaluation.conformance.probes.agreement import Agreement, judged
from dsv4.evaluation.conformance.probes.budget import Budget, Spent
from dsv4.evaluation.conformance.probes.chance import Groups, confirmed, lower
from dsv4.evaluation.conformance.probes.leaks import leak, loops
from dsv4.evaluation.conformance.probes.prompts import Needle, Ruler, score
from dsv4.evaluation.conformance.probes.reply import Called, Reply, joined
from dsv4.evaluation.conformance.probes.service import Service, apart
from dsv4.evaluation.conformance.probes.streaming import Pair
from dsv4.evaluation.conformance.probes.usage import LIMIT, _problems


def test_a_chance_is_that_of_shuffling() -> None:
    # All three zeros of six in the group of three: one way in twenty.
    assert lower([0, 0, 0], [1, 1, 1]) == pytest.approx(1 / 20, abs=0.01)
    assert lower([1, 1, 1], [0, 0, 0]) == 1
    assert lower([0.5] * 8, [0.5] * 8) == 1
    assert lower([0] * 8, [1] * 24) < 1e-4


def test_a_difference_is_looked_at_twice() -> None:
    bad: Groups = ([0.0] * 8, [1.0] * 8)
    even: Groups = ([1.0] * 8, [1.0] * 8)
    asked = []

    def again(groups: Groups) -> Groups:
        asked.append(groups)
        return groups

    assert confirmed(even, lambda: again(bad)) is None and asked == []
    assert confirmed(bad, lambda: again(even)) is None and asked == [even]
    found = confirmed(bad, lambda: again(bad))
    assert found is not None and found[0] < 0.001


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (["[DONE]"], "0 finish reasons"),
        (['{"id": 1, "choices": [{"delta": {}, "finish_reason": "stop"}]}'], "without [DONE]"),
        (["nothing", "[DONE]"], "no JSON object"),
        (['{"error": {"message": "x"}}', "[DONE]"], "ends with an error"),
        (["[DONE]", "{}"], "follows [DONE]"),
    ],
)
def test_a_broken_stream_is_named(events: list[str], said: str) -> None:
    assert any(said in text for text in joined(events).broken)


def test_pieces_of_calls_are_joined_by_index() -> None:
    def chunk(*calls: object, finish: str | None = None) -> str:
        choice = {"delta": {"tool_calls": list(calls)}, "finish_reason": finish}
        return json.dumps({"id": "x", "choices": [choice]})

    reply = joined(
        [
            chunk({"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}),
            chunk({"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}),
            chunk({"index": 0, "function": {"arguments": '{"x": 1}'}}, finish="tool_calls"),
            "[DONE]",
        ]
    )
    assert reply.broken == []
    assert [(c.id, c.name, c.arguments) for c in reply.calls] == [
        ("a", "f", '{"x": 1}'),
        ("b", "g", "{}"),
    ]
    assert "index 3" in joined([chunk({"index": 3, "function": {}}), "[DONE]"]).broken[0]


@pytest.mark.parametrize(
    "text",
    [
        "a <｜DSML｜invoke",
        "x<｜end▁of▁sentence｜>",
        "</think>",
        "<｜tool▁calls▁end｜>",
        "<tool_call>",
    ],
)
def test_markup_is_seen(text: str) -> None:
    assert leak(text) and leak("plain <b>text</b> | a|b | x < y > z") is None


def test_loops_are_seen() -> None:
    assert loops("A story. " + "and then he went " * 8)
    assert loops("no " * 40)
    assert not loops("One day a dog ran home. The sun was warm. A cat sat on the wall and slept.")
    assert not loops("ha ha ha ha")


def test_a_score_is_the_digits_before_the_first_wrong_one() -> None:
    assert score(Reply(200, content="It is **4821**."), "4821") == 1
    assert score(Reply(200, content="It is 4829 or 77"), "4821") == 0.75
    assert score(Reply(200, content="no idea"), "4821") == 0


def test_distributions_apart() -> None:
    assert apart({"a": -0.1, "b": -2.5}, {"a": -0.3, "b": -2.5}) == pytest.approx(0.2)
    assert apart({"a": -0.1, "z": -9.0}, {"a": -0.1}) == 0  # too seldom to matter
    assert apart({"a": -1.0}, {"b": -1.0}) == 7


def test_near_ties_are_rounding() -> None:
    def reply(token: str, other: str, gap: float) -> Reply:
        top = [{"token": token, "logprob": -0.7}, {"token": other, "logprob": -0.7 - gap}]
        return Reply(200, content=token, logprobs=[{**top[0], "top_logprobs": top}])

    near, far = Agreement(), Agreement()
    for _ in range(4):
        near.add(reply("a", "b", 0.1), reply("b", "a", 0.1))
        far.add(reply("a", "b", 2.0), reply("b", "a", 2.0))
    assert (near.ties, far.ties) == (4, 0)
    for found, severity in ((near, "warning"), (far, "error")):
        finding = list(judged("x", "y", found, None, "z", "h"))[-1]
        assert getattr(finding, "severity", None) == severity


def test_a_limit_is_checked_in_text_that_is_whole(tiny_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    service = Service("http://127.0.0.1:1", "x", Budget(1, 1000), tokenizer=tokenizer)
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    cut, long = Reply(200, "\ufffd\ufffd", usage=usage), Reply(200, "many words", usage=usage)
    assert list(_problems(service, cut, 2)) == []
    assert [kind for kind, _ in _problems(service, long, 2)] == [LIMIT]


def test_prompts_have_the_length_that_is_wanted(tiny_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    service = Service("http://127.0.0.1:1", "x", Budget(1, 1000), tokenizer=tokenizer)
    made = Ruler(service).prompt(Needle("a"), 700, "1234")
    assert abs((service.count(made) or 0) - 700) <= 6  # of bytes, a word has up to six
    said = made[0]["content"]
    assert said.index(Needle("a").value) < 120
    deep = Needle("a", deep=False).prompt(200, "1234")[0]["content"]
    assert deep.index(Needle("a").value) > 0.8 * len(deep)


def test_lengths_are_learned_without_a_vocabulary() -> None:
    with running(Upstream()) as url:
        service = Service(url + "/v1", "fake", Budget(60, 100_000))
        service.meet()
        ruler = Ruler(service)
        for _ in range(2):
            tokens = service.ask(ruler.prompt(Needle("a"), 300, "1234"), 1).count("prompt_tokens")
            assert tokens is not None
            ruler.learn(300, tokens)
    assert tokens == 300


def test_a_budget_refuses_what_does_not_fit() -> None:
    budget = Budget(60, 800)
    budget.take(300, 50)
    budget.correct((300, 50), 310, 40, 128)
    assert (budget.prompt, budget.answer, budget.cached) == (310, 40, 128)
    with pytest.raises(Spent, match="--max-tokens"):
        budget.take(500, 1)
    with pytest.raises(Spent, match="--max-tokens"):
        budget.take(1, 61)  # an eighth may be answers
    with pytest.raises(Spent, match="--minutes"):
        Budget(-1, 800).take(1, 1)


def test_nothing_to_compare_is_said() -> None:
    (told,) = judged("here", "answers differ", Agreement(), None, "x", "x")
    assert isinstance(told, Skipped)


@pytest.mark.parametrize(
    ("streamed", "finish", "pairs"),
    [
        (2, "length", 1),  # the call that was cut is not in the whole answer
        (2, "tool_calls", 0),
        (3, "length", 0),
        (0, "length", 0),
    ],
)
def test_a_call_that_was_cut_may_be_in_the_stream_alone(
    streamed: int, finish: str, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [Called("a", "clock", "{}"), Called("b", "note", '{"te'), Called("c", "x", "")]
    monkeypatch.setattr(Service, "ask", lambda *_: Reply(200, calls=calls[:1], finish=finish))
    monkeypatch.setattr(
        Service, "stream", lambda *_: Reply(200, calls=calls[:streamed], finish=finish)
    )
    service = Service("http://127.0.0.1:1", "x", Budget(1, 1000))
    made = Pair(service, [[{"role": "user", "content": "Hello"}]], 5)
    assert made.found.pairs - len(made.found.differ) == pairs
    assert [len(reply.calls) for reply in made.replies] == [1, streamed]
