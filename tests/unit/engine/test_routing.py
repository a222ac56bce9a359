"""What an answer's end reports for training: the stop id, and the experts of every id."""

from __future__ import annotations

import pytest
import torch
from tests.parity.models import FLASH_LIKE, draw_config, draw_model

from dsv4.engine.core import Core
from dsv4.engine.memory import Memory
from dsv4.engine.request import Event, Finish, Generation, Token
from dsv4.engine.sampler import Sampling
from dsv4.model.blocks import BLOCK
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import by_name
from dsv4.ops.fused import available

PROMPT = tuple(5 + i % 90 for i in range(BLOCK + 9))


@pytest.fixture(scope="module")
def model() -> Transformer:
    if not available():
        pytest.skip("no native kernels: other policies promise no equal bits")
    made = draw_model(draw_config(3, FLASH_LIKE), 3)
    made.numerics = by_name("fast")
    return made.requires_grad_(False)


def ends(core: Core, generations: list[Generation]) -> list[tuple[list[Token], Finish]]:
    """Tokens and end of each request, all of them run together."""
    heard: list[list[Event | Exception]] = [[] for _ in generations]
    for generation, events in zip(generations, heard, strict=True):
        core.add(generation, events.append)
    while core.busy:
        core.step()
    assert core.check_integrity() == []
    found = []
    for events in heard:
        last = events[-1]
        assert isinstance(last, Finish), last
        found.append(([e for e in events if isinstance(e, Token)], last))
    return found


def whole_pass(model: Transformer, ids: tuple[int, ...]) -> torch.Tensor:
    """Experts `[T, L, K]` of ids that are computed at once."""
    with torch.no_grad():
        output = model(torch.tensor([ids]), model.new_state())
    return torch.stack([layer.experts_NK for layer in output.routing], 1)


@pytest.mark.parametrize("speculation", ["off", "on"])
def test_routing_is_that_of_the_ids_however_they_were_computed(
    model: Transformer, speculation: str
) -> None:
    """In pieces, one by one, after guesses right and wrong."""
    core = Core(model, Memory(model, 1 << 30), speculation=speculation)  # type: ignore[arg-type]
    asked = [Generation(PROMPT[:n], 30, routing=True) for n in (3, 40, len(PROMPT))]
    for generation, (tokens, finish) in zip(asked, ends(core, asked), strict=True):
        ids = (*generation.ids, *(token.id for token in tokens))[:-1]
        assert finish.routing is not None
        assert torch.equal(finish.routing, whole_pass(model, ids))


def test_routing_says_what_was_computed_and_not_what_the_cache_knew(model: Transformer) -> None:
    core = Core(model, Memory(model, 1 << 30), speculation="off")
    first = ends(core, [Generation(PROMPT, 4, sampling=Sampling(seed=1))])[0][1]
    again = ends(core, [Generation(PROMPT, 4, sampling=Sampling(seed=1))])[0][1]
    asked = Generation(PROMPT, 4, sampling=Sampling(seed=1), routing=True)
    tokens, recorded = ends(core, [asked])[0]
    assert (first.cached, again.cached, recorded.cached) == (0, BLOCK, BLOCK)
    assert again.routing is None and recorded.routing is not None
    assert bool((recorded.routing[:BLOCK] == -1).all())
    ids = (*PROMPT, *(token.id for token in tokens))[:-1]
    assert torch.equal(recorded.routing[BLOCK:], whole_pass(model, ids)[BLOCK:])


def test_a_request_that_made_way_reports_all_its_ids(model: Transformer) -> None:
    """It is put back twice, in its prompt and in its answer, and computed again."""
    core = Core(model, Memory(model, 1 << 30), speculation="off")
    events: list[Event | Exception] = []
    sequence = core.add(Generation(PROMPT, 20, sampling=Sampling(seed=1), routing=True),
                        events.append)  # fmt: skip
    for produced in (0, 7):
        while sequence.produced < produced or sequence not in core.running:
            core.step()
        core.preempt(sequence)
    while core.busy:
        core.step()
    finish = events[-1]
    assert core.counters.preemptions == 2
    assert isinstance(finish, Finish) and finish.routing is not None
    ids = (*PROMPT, *(event.id for event in events if isinstance(event, Token)))[:-1]
    assert torch.equal(finish.routing, whole_pass(model, ids))


def test_the_stop_id_is_told_with_its_likelihood_and_not_emitted(model: Transformer) -> None:
    core = Core(model, Memory(model, 1 << 30), speculation="off")
    free = ends(core, [Generation(PROMPT[:9], 6, sampling=Sampling(seed=3))])[0]
    assert free[1].stop is None and free[1].reason == "length"
    third = free[0][2]
    stopped = ends(
        core, [Generation(PROMPT[:9], 6, frozenset({third.id}), Sampling(seed=3), routing=True)]
    )[0]
    before = [t.id for t in free[0]].index(third.id)
    assert [t.id for t in stopped[0]] == [t.id for t in free[0]][:before]
    assert stopped[1].stop == free[0][before]
    assert stopped[1].routing is not None and len(stopped[1].routing) == 9 + before
