"""Cold and from the prefix cache: the same answer, and that of the right question?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.agreement import Agreement, judged
from dsv4.evaluation.conformance.probes.chance import confirmed, shown
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import ROOM, score, user, words
from dsv4.evaluation.conformance.probes.reply import Reply
from dsv4.evaluation.conformance.probes.service import LOGPROBS, Messages, Service, apart

LENGTHS = (60, 150, 300, 500, 700)
"""Words of the texts that are cached; the shorter ones fit into a window."""
NATS = 0.5
"""A next token's log-probability from the cache may be so far from the cold one (and three times
as far as two cold ones are): caches round their entries as cold runs do."""
RING = "ROCm/ATOM#1417: hits restore compressed entries, not the window or the unfinished block"


def _questions(
    seed: str, length: int, *, turned: bool = False
) -> tuple[tuple[Messages, str], tuple[Messages, str]]:
    """Two questions about one text with their answers; `turned`: in the other order."""
    rng = Random(seed)
    values = [str(rng.randint(1000, 9999)) for _ in range(2)]
    facts = [
        f"The secret number of {name} is {value} ."
        for name, value in zip(("Anna", "Ben"), values, strict=True)
    ]
    text = words(rng, length).split(" ")
    said = " ".join([*text[: length // 2], *facts, *text[length // 2 :]])
    made = [
        (user(f"Text {seed} : {said}\n\nWhat is the secret number of {name}?"), value)
        for name, value in zip(("Anna", "Ben"), values, strict=True)
    ]
    return (made[1], made[0]) if turned else (made[0], made[1])


def run(service: Service) -> Iterator[Told]:
    extra = LOGPROBS if service.logprobs else {}
    again, partly, control = Agreement(), Agreement(), Agreement()
    hits: list[int] = []
    isolated = True
    drift: list[float] = []
    noise: list[float] = []
    for length in LENGTHS:
        (first, _), (second, _) = _questions(f"{service.run} {length}", length)
        mine = service.salted()
        cold = service.ask(first, ROOM, **mine, **extra)
        hot = service.ask(first, ROOM, **mine, **extra)
        again.add(cold, hot)
        hits.append(hot.cached or 0)
        # The other question finds the text in the cache; with another salt it finds nothing.
        part = service.ask(second, ROOM, **mine, **extra)
        hits.append(part.cached or 0)
        fresh = service.ask(second, ROOM, **service.cold(), **extra)
        isolated &= not fresh.cached
        partly.add(fresh, part)
        control.add(fresh, service.ask(second, ROOM, **service.cold(), **extra))
        near = service.next_tokens(second, **mine)
        far = [service.next_tokens(second, **service.cold()) for _ in range(2)]
        if near and far[0] and far[1]:
            drift.append(apart(near, far[0]))
            noise.append(apart(far[0], far[1]))
    if not any(hits):
        yield Measured("the server tells of no cached tokens, so hits may not have happened")
    else:
        yield Measured(f"{sum(map(bool, hits))} of {len(hits)} repeated prompts were hits")
    yield from judged(
        "the same prompt again",
        "an answer from the prefix cache is another one",
        again,
        control,
        RING,
        "compare with the prefix cache off",
    )
    if isolated:
        yield from judged(
            "another question about a cached text",
            "an answer from a cached beginning is another one than cold",
            partly,
            control,
            RING,
            "compare with the prefix cache off",
        )
    else:
        yield Skipped(
            "a cached beginning against the same prompt cold",
            "the server reads none of user_id, cache_salt, cache_prompt: nothing is cold twice",
        )
    if drift:
        yield from _drifted(drift, noise, isolated)
    yield from _mixed(service)


def _drifted(drift: list[float], noise: list[float], isolated: bool) -> Iterator[Told]:
    yield Measured(
        f"next tokens from the cache: at most {max(drift):.2g} nats from cold, {len(drift)} "
        f"texts; two cold ones {max(noise):.2g}"
    )
    if isolated and max(drift) > max(NATS, 3 * max(noise)):
        yield Finding(
            f"from the cache, log-probabilities of the next token are up to {max(drift):.2g} nats "
            f"from those without it; two without are up to {max(noise):.2g} apart",
            "a cached beginning",
            sure="likely",
            resembles=RING,
            hint="compare with the prefix cache off",
        )


def _mixed(service: Service) -> Iterator[Told]:
    """Two questions about a text, one after the other: is the second found as often as the first?
    Each is asked first in every other text."""

    def look(times: int, name: str) -> tuple[list[float], list[float], int]:
        first_scores, second_scores, same = [], [], 0
        for i in range(times):
            length = LENGTHS[i % len(LENGTHS)] // 2
            pairs = _questions(f"{service.run} {name} {i}", length, turned=i % 2 == 1)
            replies: list[Reply] = [service.ask(messages, ROOM) for messages, _ in pairs]
            first_scores.append(score(replies[0], pairs[0][1]))
            second_scores.append(score(replies[1], pairs[1][1]))
            same += score(replies[1], pairs[0][1]) == 1
        return second_scores, first_scores, same

    second, first, same = look(10, "mixed")
    yield Measured(
        f"of two questions about one text the first was answered {shown(first)}, "
        f"the second {shown(second)}; {same} second answers were the first's"
    )
    found = confirmed((second, first), lambda: look(12, "mixed again")[:2])
    if found is not None:
        chance, (second, first) = found
        yield Finding(
            f"a second question about a text is answered worse than the first: {shown(second)} "
            f"against {shown(first)} (by chance: {chance:.1g}); {same} of 10 second answers were "
            "those to the first question",
            "another question about a cached text",
            sure="likely",
            resembles=RING,
            hint="compare with the prefix cache off",
        )


PROBE = Probe(
    "cache",
    "the same prompts cold and again, other questions about a cached text, next tokens with and "
    "without the cache",
    "hits that change an answer, or give that of another question",
    run,
)
