"""A value planted in a prompt, by its length: at every residue, around every edge.

No model has a reason to find less at 2,053 tokens than at 2,051, or where a length is 3 mod 4. So
lengths near each other are compared, each with the same values and questions. Where a model does
not find what stands at the beginning, values stand near the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from dsv4.config import CSA, HCA
from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.lengths import onset
from dsv4.evaluation.conformance.probes.chance import confirmed, shown
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import ROOM, Needle, Ruler, score
from dsv4.evaluation.conformance.probes.reply import Reply
from dsv4.evaluation.conformance.probes.service import Messages, Service

WHERE = "lengths"
SHARE = 0.5
"""Of the run's time and tokens that this probe may take."""
EDGES = (HCA, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
RELEASED_ONSETS = (2052, 4100)
"""The lengths at which Flash and Pro first drop an entry."""
NEAR = CSA
"""Tokens on both sides of an edge, and so every residue mod 4 on each."""
REPEATS, AGAIN = 2, 3
"""Values per length; more of them in a second look."""
SAMPLED = (0, 1, 2, 3, 31, 63, 64, 65, 126, 127)
"""Residues mod 128 that are tried: a block's end and its neighbours, and its middle."""
BLIND = 0.25
"""A share of what is found, below which there is too little to lose."""
MOD_FOUR = "vllm#55927: wrong digits in deep retrieval whenever the prompt length is 3 mod 4"
TINY = range(1, 13)


@dataclass(frozen=True, slots=True)
class Trial:
    """One value, asked for in a prompt of `tokens`. `score`: how much of it was said."""

    tokens: int
    score: float


class Sweep:
    """Asks, and keeps what every trial gave."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ruler = Ruler(service)
        self._starts = Random(service.run)
        self._spent = (0, 0.0)
        self._since = service.budget.mark()
        self.deep = True
        """Whether values stand at the beginning; else near the end."""
        self.trials: list[Trial] = []

    def fits(self, lengths: Sequence[int], repeats: int) -> bool:
        """Whether so much more fits into this probe's share of the budget, at the speed so far."""
        tokens = sum(lengths) * repeats
        done, seconds = self._spent
        return self._service.budget.fits(
            SHARE, self._since, tokens * seconds / done if done else 0.0, tokens
        )

    def look(
        self, lengths: Sequence[int], repeats: int, seed: str, *, near: bool = False
    ) -> list[Trial]:
        """Every length with the same values. They differ in the beginning, so that none is found
        in a cache."""
        deep = self.deep and not near
        wanted = [
            (length, Needle(f"{seed} {i}", deep)) for i in range(repeats) for length in lengths
        ]
        found: list[Trial] = []
        lanes = self._service.lanes
        for at in range(0, len(wanted), lanes):
            begin = self._service.budget.left
            part = wanted[at : at + lanes]
            asked = [self._written(length, needle) for length, needle in part]
            jobs = [partial(self._service.ask, messages, ROOM) for messages in asked]
            replies = self._service.together(jobs) if lanes > 1 else [job() for job in jobs]
            for (length, needle), messages, reply in zip(part, asked, replies, strict=True):
                found += self._trial(length, needle, messages, reply)
            self._spent = (
                self._spent[0] + sum(length for length, _ in part),
                self._spent[1] + begin - self._service.budget.left,
            )
        return found

    def _written(self, length: int, needle: Needle) -> Messages:
        return self._ruler.prompt(needle, length, str(self._starts.randint(1000, 9999)))

    def _trial(
        self, length: int, needle: Needle, messages: Messages, reply: Reply
    ) -> Iterator[Trial]:
        if reply.status >= 400:
            return
        tokens = self._service.count(messages) or reply.count("prompt_tokens")
        if tokens is not None:
            self._ruler.learn(length, tokens)
            yield Trial(tokens, score(reply, needle.value))


def edges(service: Service) -> list[int]:
    """Lengths around which something may begin or end, in order."""
    config = service.config
    own = (config.sliding_window, onset(config)) if config else RELEASED_ONSETS
    most = service.context or max(EDGES) + NEAR + 1
    return sorted(edge for edge in {*EDGES, *own} if edge + NEAR + ROOM < most and edge >= HCA // 2)


def run(service: Service) -> Iterator[Told]:
    yield from _tiny(service)
    sweep = Sweep(service)
    for edge in edges(service):
        lengths = [*range(edge - NEAR, edge), *range(edge + 1, edge + NEAR + 1)]
        if not sweep.fits(lengths, REPEATS):
            yield Skipped(
                f"{WHERE} from {edge:,} tokens on",
                f"they do not fit into {SHARE:.0%} of --minutes and --max-tokens",
            )
            break
        yield from _edge(sweep, edge, lengths)
        if edge == 512:
            yield from _blocks(sweep, edge)
    yield from _residues(sweep)


def _tiny(service: Service) -> Iterator[Told]:
    """The shortest prompts there are: answered at all?"""
    answered, failed = 0, []
    for count in TINY:
        reply = service.ask([{"role": "user", "content": " ".join(["so"] * count)}], 2)
        good = reply.status < 400 and not reply.broken
        answered += good
        if not good:
            failed.append(f"{count} words: status {reply.status}, {'; '.join(reply.broken)[:80]}")
    yield Measured(f"{answered} of {len(TINY)} prompts of 1 to {TINY[-1]} words are answered")
    if failed:
        yield Finding(
            f"very short prompts are not answered: {failed[0]}",
            WHERE,
            hint="compressors have nothing to pool below 4 and 128 tokens",
        )


def _edge(sweep: Sweep, edge: int, lengths: Sequence[int]) -> Iterator[Told]:
    def parted(found: Sequence[Trial]) -> tuple[list[float], list[float]]:
        above = [one.score for one in found if one.tokens > edge]
        return above, [one.score for one in found if one.tokens < edge]

    found = sweep.look(lengths, REPEATS, f"edge {edge}")
    if sweep.deep and sum(one.score for one in found) < BLIND * len(found):
        near = [one.score for one in sweep.look([edge], len(lengths), f"near {edge}", near=True)]
        yield Measured(
            f"around {edge:,} tokens a value at the beginning is found "
            f"{shown([one.score for one in found])}, near the end {shown(near)}: too seldom to "
            "compare lengths, so values stand near the end from here on"
        )
        sweep.deep = False
        found = sweep.look(lengths, REPEATS, f"edge {edge}")
    sweep.trials += found
    above, below = parted(found)
    place = "at the beginning" if sweep.deep else "near the end"
    yield Measured(
        f"around {edge:,} tokens, {place}: found {shown(below)} below, {shown(above)} above"
    )
    again = confirmed(
        (above, below), lambda: parted(sweep.look(lengths, AGAIN, f"edge {edge} again"))
    )
    if again is not None:
        chance, (above, below) = again
        yield Finding(
            f"from {edge:,} tokens on a value is found less often: {shown(above)} at {edge + 1} to "
            f"{edge + NEAR} tokens, {shown(below)} at {edge - NEAR} to {edge - 1} (by chance: "
            f"{chance:.1g})",
            f"{WHERE}: {edge:,}",
            sure="likely",
            resembles=_EDGE.get(edge, "vllm#52109, sglang#36390: output decays with length"),
            hint="dsv4 verify FOLDER --length says which part is wrong, if the weights are at hand",
        )


_EDGE = {
    HCA: "the first HCA entry and the edge of the window",
    **{length: "the first entry that the indexer drops" for length in RELEASED_ONSETS},
}


def _groups(found: Sequence[Trial], modulus: int, residue: int) -> tuple[list[float], list[float]]:
    ours = [one.score for one in found if one.tokens % modulus == residue]
    return ours, [one.score for one in found if one.tokens % modulus != residue]


def _compared(
    found: Sequence[Trial],
    modulus: int,
    residues: Sequence[int],
    look_again: Callable[[int], list[Trial]],
    resembles: str,
) -> Iterator[Told]:
    for residue in residues:
        again = confirmed(
            _groups(found, modulus, residue),
            partial(lambda r: _groups(look_again(r), modulus, r), residue),
        )
        if again is None:
            continue
        chance, (ours, others) = again
        yield Finding(
            f"prompts whose length is {residue} mod {modulus} are answered worse: {shown(ours)} "
            f"found, others of like length {shown(others)} (by chance: {chance:.1g})",
            f"{WHERE}: {residue} mod {modulus}",
            sure="likely",
            resembles=resembles,
            hint="a block that ends with the prompt: what is left of it is not pooled, or pooled "
            "too early",
        )


def _residues(sweep: Sweep) -> Iterator[Told]:
    """Every residue mod 4, over all lengths around all edges."""
    if not sweep.trials:
        yield Skipped(f"{WHERE} mod {CSA}", "there were no trials")
        return
    parts = (
        f"{residue}: {shown(_groups(sweep.trials, CSA, residue)[0])}" for residue in range(CSA)
    )
    yield Measured(f"found by length mod {CSA}: {', '.join(parts)}")
    if not any(one.score for one in sweep.trials):
        yield Skipped(f"{WHERE} mod {CSA}", "the model finds nothing at any length")
        return
    # Again where it shows best: at the longest lengths of which something was found.
    center = max(one.tokens for one in sweep.trials if one.score) // CSA * CSA
    lengths = [center + step for step in range(-CSA, CSA)]

    def again(residue: int) -> list[Trial]:
        return sweep.look(lengths, 2 * AGAIN, f"mod {CSA} again {residue}")

    yield from _compared(sweep.trials, CSA, range(CSA), again, MOD_FOUR)


def _blocks(sweep: Sweep, center: int) -> Iterator[Told]:
    """Some residues mod 128, at lengths of one block."""
    lengths = [center + residue for residue in SAMPLED]
    if not sweep.fits(lengths, AGAIN):
        yield Skipped(f"{WHERE} mod {HCA}", f"it does not fit into {SHARE:.0%} of the budget")
        return
    found = sweep.look(lengths, AGAIN, "blocks")
    yield Measured(
        f"{len(found)} prompts of {center} to {center + HCA - 1} tokens, residues mod {HCA} "
        f"{', '.join(map(str, SAMPLED))}: found {shown([one.score for one in found])}"
    )

    def again(residue: int) -> list[Trial]:
        others = [length for length in lengths if length != center + residue]
        return sweep.look([*[center + residue] * 2, *others[::2]], 2 * AGAIN, f"again {residue}")

    yield from _compared(
        found, HCA, SAMPLED, again, "an HCA block that ends with the prompt, or is left unfinished"
    )


PROBE = Probe(
    WHERE,
    "a value planted at the beginning (near the end, if the model does not find it there), at "
    "lengths on both sides of 128, the window, 256, 512, the indexer's first drop, and powers of "
    "two up to the budget: every residue mod 4, ten residues mod 128; prompts of 1 to 12 words",
    "answers that get worse from one length on, or at one residue",
    run,
)
