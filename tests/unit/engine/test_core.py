"""The engine's promise: a request is answered the same whatever else runs.

Random requests are computed alone, and then together: with a cache that hits and forgets, memory
that is too small for all, cancelled neighbours, pieces, guesses. Every token is compared.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile

import pytest
import torch
from tests.parity.models import FLASH_LIKE, draw_config, draw_model, with_engram

from dsv4.cache.prefix import Store
from dsv4.engine.core import Core
from dsv4.engine.generate import generate
from dsv4.engine.memory import Checkpoints, Memory
from dsv4.engine.request import Event, Finish, Generation, Token
from dsv4.engine.sampler import GREEDY, Sampling
from dsv4.engine.sequence import Sequence
from dsv4.errors import RequestError, StateError, UsageError
from dsv4.model.blocks import BLOCK
from dsv4.model.state import State
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import by_name
from dsv4.ops.fused import available

ENOUGH = 1 << 30


@pytest.fixture(scope="module")
def model() -> Transformer:
    if not available():
        pytest.skip("no native kernels: other policies promise no equal bits")
    made = draw_model(with_engram(draw_config(3, FLASH_LIKE), 3), 3)
    made.numerics = by_name("fast")
    return made.requires_grad_(False)


def core(model: Transformer, capacity: int = ENOUGH, **options: object) -> Core:
    memory = {k: options.pop(k) for k in ("checkpoints", "store", "binding") if k in options}
    return Core(model, Memory(model, capacity, **memory), **options)  # type: ignore[arg-type]


class Listener:
    """Collects what is delivered for one request."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.last: Event | Exception | None = None

    def __call__(self, event: Event | Exception) -> None:
        assert not isinstance(self.last, (Finish, Exception)), "something came after the end"
        self.last = event
        if isinstance(event, Token):
            self.tokens.append(event.id)

    @property
    def finish(self) -> Finish:
        assert isinstance(self.last, Finish), self.last
        return self.last


def alone(model: Transformer, generation: Generation) -> list[int]:
    return [event.id for event in generate(model, generation) if isinstance(event, Token)]


def run(engine: Core, *generations: Generation) -> list[Listener]:
    listeners = [Listener() for _ in generations]
    for generation, listener in zip(generations, listeners, strict=True):
        engine.check(generation)
        engine.add(generation, listener)
    while engine.busy:
        engine.step()
    assert engine.check_integrity() == []
    return listeners


def computed_again(model: Transformer) -> int:
    """Tokens after which rings that began empty are right: windows, and Engram's look-back."""
    config = model.config
    assert config.engram is not None
    return len(config.layer_ratios) * config.sliding_window + config.engram.lookback


def prompt(seed: int, length: int, vocabulary: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(vocabulary), k=length))


def requests(model: Transformer, count: int, seed: int) -> list[Generation]:
    """Requests of three users, many with a beginning in common."""
    draw, vocabulary = random.Random(seed), model.config.vocab_size
    stems = [prompt(1000 + i, length, vocabulary) for i, length in enumerate((130, 300, 600, 1500))]
    made = []
    for i in range(count):
        stem = draw.choice(stems)
        ids = stem[: draw.choice([1, 64, 128, 129, 256, len(stem)])]
        ids += prompt(i, draw.randrange(0, 40), vocabulary)
        sampling = draw.choice(
            [
                GREEDY,
                Sampling(seed=i, top_p=0.95),
                Sampling(seed=i, min_p=0.05, presence_penalty=1.0, frequency_penalty=0.5),
                Sampling(temperature=0.5, seed=i, top_k=5, bias=((3, 4.0),)),
            ]
        )
        length = draw.choice([1, 2, 7, 20, 150])
        made.append(Generation(ids, length, frozenset({0}), sampling, user=draw.choice("abc")))
    return made


@pytest.fixture(scope="module")
def asked(model: Transformer) -> list[tuple[Generation, list[int]]]:
    """200 requests, and what each is answered alone."""
    return [(generation, alone(model, generation)) for generation in requests(model, 200, 7)]


@pytest.mark.parametrize(("speculation", "period"), [("off", 1024), ("on", 128), ("on", None)])
def test_200_requests_under_load_are_answered_as_alone(
    model: Transformer,
    asked: list[tuple[Generation, list[int]]],
    speculation: str,
    period: int | None,
) -> None:
    """Arrivals at random, a memory that holds a few of them and forgets, some that make way in
    the middle, every ninth one cancelled."""
    one = Memory(model, ENOUGH)
    rings = model.new_state().ring_bytes + model.new_mtp_state().ring_bytes
    capacity = 8 * rings + 60 * one.block_bytes
    keep = Checkpoints(period)
    engine = core(model, capacity, checkpoints=keep, speculation=speculation, most_running=10)
    draw = random.Random(1)
    waiting = list(enumerate(asked))
    draw.shuffle(waiting)
    listeners: dict[int, Listener] = {}
    doomed: list[tuple[Sequence, Listener, int]] = []
    while waiting or engine.busy:
        for _ in range(draw.choice([0, 0, 1, 2, 5])):
            if waiting:
                i, (generation, want) = waiting.pop()
                listener = listeners[i] = Listener()
                sequence = engine.add(generation, listener)
                if i % 9 == 0:
                    doomed.append((sequence, listener, draw.randrange(0, len(want) + 1)))
        for sequence, listener, after in doomed:
            if len(listener.tokens) >= after:
                sequence.cancel()
        if engine.running and draw.random() < 0.05:
            engine.preempt(draw.choice(engine.running))
        engine.step()
        assert engine.memory.used <= capacity
    for i, (_, want) in enumerate(asked):
        if i % 9 == 0:
            assert listeners[i].tokens == want[: len(listeners[i].tokens)]
        else:
            assert listeners[i].tokens == want
    assert engine.check_integrity() == []
    assert engine.memory.used == engine.memory.cache.bytes
    assert engine.counters.preemptions > 0
    assert any(listener.finish.cached for listener in listeners.values())
    if speculation == "on":
        assert engine.speculation.guessed > 0


@pytest.mark.parametrize(
    ("length", "cached"), [(128, 0), (129, 128), (300, 256), (512, 384), (1040, 1024)]
)
def test_a_prompt_seen_before_is_not_computed_again(
    model: Transformer, length: int, cached: int
) -> None:
    generation = Generation(prompt(1, length, model.config.vocab_size), 5, sampling=GREEDY)
    engine = core(model)
    (first,) = run(engine, generation)
    (second,) = run(engine, generation)
    assert (first.finish.cached, second.finish.cached) == (0, cached)
    assert first.tokens == second.tokens == alone(model, generation)


def test_another_turn_goes_on_where_the_answer_ended(model: Transformer) -> None:
    ids = prompt(2, 200, model.config.vocab_size)
    engine = core(model)
    (first,) = run(engine, Generation(ids, 100, sampling=GREEDY))
    longer = Generation((*ids, *first.tokens, 3, 5), 8, sampling=GREEDY)
    (second,) = run(engine, longer)
    assert second.finish.cached == 256
    assert second.tokens == alone(model, longer)


def test_users_share_nothing(model: Transformer) -> None:
    ids = prompt(3, 400, model.config.vocab_size)
    engine = core(model)
    run(engine, Generation(ids, 2, user="a"))
    (other,) = run(engine, Generation(ids, 2, user="b"))
    (same,) = run(engine, Generation(ids, 2, user="a"))
    assert (other.finish.cached, same.finish.cached) == (0, 384)


def test_where_requests_part_is_remembered(model: Transformer) -> None:
    """The second request sees how much it has in common; the third one profits."""
    vocabulary = model.config.vocab_size
    stem = prompt(4, 400, vocabulary)
    asked = [Generation(stem + prompt(i, 150, vocabulary), 3, sampling=GREEDY) for i in range(3)]
    engine = core(model, checkpoints=Checkpoints(4096))
    answers = [run(engine, generation)[0] for generation in asked]
    assert [answer.finish.cached for answer in answers] == [0, 0, 384]
    assert [answer.tokens for answer in answers] == [alone(model, g) for g in asked]


@pytest.mark.parametrize("period", [128, 256, None])
def test_every_way_of_keeping_rings_gives_the_same(model: Transformer, period: int | None) -> None:
    """Without kept rings they are computed again, in front of blocks that stay as they are."""
    vocabulary = model.config.vocab_size
    stem = prompt(5, 1900, vocabulary)
    engine = core(model, checkpoints=Checkpoints(period))
    run(engine, Generation(stem, 1))
    longer = Generation(stem + prompt(9, 30, vocabulary), 12, sampling=GREEDY)
    (answer,) = run(engine, longer)
    assert answer.tokens == alone(model, longer)
    blind = 1900 // BLOCK * BLOCK - computed_again(model)
    assert blind > 0
    assert answer.finish.cached == (blind if period is None else 1900 // BLOCK * BLOCK)


def test_guesses_change_nothing_and_some_are_right(model: Transformer) -> None:
    generation = Generation(prompt(6, 150, model.config.vocab_size), 60, sampling=GREEDY)
    engine = core(model, speculation="on")
    (answer,) = run(engine, generation)
    assert answer.tokens == alone(model, generation)
    assert engine.speculation.guessed > 20


def test_a_perfect_guesser_halves_the_steps(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = Generation(prompt(6, 150, model.config.vocab_size), 41, sampling=GREEDY)
    want = alone(model, generation)
    engine = core(model, speculation="on")

    def guess(sequence: Sequence, streams: torch.Tensor, start: int) -> None:
        answer = [*want, 0, 0]
        sequence.draft = answer[sequence.produced]
        engine.speculation.guessed += 1

    monkeypatch.setattr(type(engine.speculation), "guess", lambda self, *args: guess(*args))
    (answer,) = run(engine, generation)
    assert answer.tokens == want
    assert engine.speculation.acceptance == 1.0
    assert engine.counters.steps == 1 + 20


def test_guessing_stops_where_it_does_not_pay(model: Transformer) -> None:
    engine = core(model, speculation="auto")
    speculation = engine.speculation
    for _ in range(24):
        assert speculation.active
        speculation.measured(1, 1, 0.02)
    for _ in range(24):
        assert not speculation.active
        speculation.measured(1, 1, 0.01)
    assert not speculation.active and speculation.gain == pytest.approx(0.5)
    for _ in range(1024 - 48):
        speculation.measured(1, 1, 0.01)
    assert speculation.active


def test_only_steps_of_one_size_are_compared(model: Transformer) -> None:
    speculation = core(model, speculation="auto").speculation
    for _ in range(24):
        speculation.measured(1, 1, 0.02)
        speculation.measured(2, 2, 0.001)  # faster, but not for its guesses
    for _ in range(24):
        speculation.measured(1, 1, 0.01)
    assert not speculation.active and speculation.gain == pytest.approx(0.5)


def test_sampled_answers_with_guesses_follow_the_distribution(model: Transformer) -> None:
    """The first tokens of many answers: with guesses as without, seed by seed, and the second,
    before which there was a guess, as the model says (chi-square over its likeliest values)."""
    count, ids = 400, prompt(8, 130, model.config.vocab_size)
    sampling = Sampling(temperature=0.25)  # few likely tokens, each drawn often
    made = [Generation(ids, 3, sampling=replace(sampling, seed=seed)) for seed in range(count)]
    engine = core(model, speculation="on", most_running=4)
    answers = [answer.tokens for answer in run(engine, *made)]
    assert engine.speculation.guessed >= count and engine.speculation.right > 0
    assert answers == [answer.tokens for answer in run(core(model), *made)]
    first, _ = Counter(tokens[0] for tokens in answers).most_common(1)[0]
    seconds = [tokens[1] for tokens in answers if tokens[0] == first]
    assert len(seconds) > 50
    logits = model(torch.tensor([[*ids, first]]), model.new_state()).logits_BTV[0, -1]
    probs = (logits / 0.25).softmax(-1)
    top = probs.topk(5).indices.tolist()
    seen = [seconds.count(token) for token in top]
    want = [len(seconds) * float(probs[token]) for token in top]
    chi = sum((s - w) ** 2 / w for s, w in zip(seen, want, strict=True))
    assert chi < 25  # 5 degrees of freedom: beyond 20.5 one time in a thousand


def test_users_are_served_in_turn(model: Transformer) -> None:
    """One user's crowd does not hold up another's single request."""
    vocabulary = model.config.vocab_size
    engine = core(model, most_running=1)
    order: list[str] = []

    def note(name: str) -> Callable[[Event | Exception], None]:
        return lambda event: order.append(name) if isinstance(event, Finish) else None

    for i in range(6):
        engine.add(Generation(prompt(i, 20, vocabulary), 4, user="crowd"), note(f"crowd {i}"))
    engine.step()
    engine.add(Generation(prompt(99, 20, vocabulary), 4, user="single"), note("single"))
    while engine.busy:
        engine.step()
    assert order.index("single") <= 1
    assert [name for name in order if name != "single"] == [f"crowd {i}" for i in range(6)]


def test_long_prompts_do_not_hold_up_others(model: Transformer) -> None:
    vocabulary = model.config.vocab_size
    engine = core(model)
    talker = Listener()
    engine.add(Generation(prompt(1, 10, vocabulary), 200, sampling=GREEDY), talker)
    engine.step()
    engine.add(Generation(prompt(2, 1500, vocabulary), 1), Listener())
    before = len(talker.tokens)
    for _ in range(6):
        engine.step()
    assert len(talker.tokens) >= before + 6
    assert any(not sequence.decoding for sequence in engine.running)


def test_the_budget_holds_for_one_request_after_the_other(model: Transformer) -> None:
    one, rings = Memory(model, ENOUGH), model.new_state().ring_bytes
    capacity = 2 * rings + 80 * one.block_bytes
    engine = core(model, capacity, checkpoints=Checkpoints(None))
    for seed in range(12):
        run(engine, Generation(prompt(seed, 1100, model.config.vocab_size), 2))
        assert engine.memory.used <= capacity


def test_kept_rings_of_a_running_request_make_way_for_its_blocks(model: Transformer) -> None:
    rings = model.new_state().ring_bytes + model.new_mtp_state().ring_bytes
    capacity = 2 * rings + 40 * Memory(model, ENOUGH).block_bytes
    engine = core(model, capacity, checkpoints=Checkpoints(128))
    generation = Generation(prompt(1, 5000, model.config.vocab_size), 3, sampling=GREEDY)
    answer = Listener()
    engine.add(generation, answer)
    while engine.busy:
        engine.step()
        assert engine.memory.used <= capacity
        assert engine.memory.cache.check() == []
    assert answer.tokens == alone(model, generation)


def test_two_that_do_not_fit_together_take_turns(model: Transformer) -> None:
    """Who made way is not let in again before the other is done, and goes on where it was."""
    vocabulary, rings = model.config.vocab_size, model.new_state().ring_bytes
    block = Memory(model, ENOUGH).block_bytes
    asked = [Generation(prompt(seed, 2000, vocabulary), 300, sampling=GREEDY) for seed in (1, 2)]
    rings += model.new_mtp_state().ring_bytes
    engine = core(model, 3 * rings + 36 * block)
    answers = run(engine, *asked)
    assert [answer.tokens for answer in answers] == [alone(model, g) for g in asked]
    assert engine.counters.preemptions <= 2


def test_who_waits_for_room_takes_nothing_from_the_cache(model: Transformer) -> None:
    vocabulary, rings = model.config.vocab_size, model.new_state().ring_bytes
    block = Memory(model, ENOUGH).block_bytes
    rings += model.new_mtp_state().ring_bytes
    engine = core(model, 2 * rings + 45 * block)
    small = Generation(prompt(1, 700, vocabulary), 60, sampling=GREEDY)
    run(engine, small)
    before = len(engine.memory.cache)
    engine.add(small, Listener())
    engine.step()
    large = engine.add(Generation(prompt(2, 5000, vocabulary), 1), Listener())
    for _ in range(20):
        engine.step()
    assert large.state is None
    assert len(engine.memory.cache) >= before


def test_a_record_that_breaks_admission_ends_its_request_only(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt(3, 300, model.config.vocab_size)
    engine = core(model)
    run(engine, Generation(ids, 2))

    def broken(self: State, blocks: list[torch.Tensor], tail: torch.Tensor) -> None:
        raise StateError("not this model's")

    with monkeypatch.context() as patch:
        patch.setattr(State, "resume", broken)
        (answer,) = run(engine, Generation(ids, 2))
    assert isinstance(answer.last, StateError)
    assert run(engine, Generation(ids, 2))[0].finish.cached == 256


def test_what_cannot_be_kept_still_ends(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = core(model)
    with monkeypatch.context() as patch:
        patch.setattr(Memory, "release", lambda self, sequence: 1 / 0)
        (answer,) = run(engine, Generation(prompt(3, 300, model.config.vocab_size), 2))
    assert answer.finish.reason == "length"


def test_a_newcomer_has_no_claim_on_the_past(model: Transformer) -> None:
    """Who has been served for long is not held up by one who comes for the first time."""
    vocabulary = model.config.vocab_size
    engine = core(model, most_running=1)
    run(engine, *[Generation(prompt(i, 400, vocabulary), 4, user="old") for i in range(3)])
    order: list[str] = []

    def note(name: str) -> Callable[[Event | Exception], None]:
        return lambda event: order.append(name) if isinstance(event, Finish) else None

    for name in ("old", "new", "new", "new", "new", "old"):
        engine.add(Generation(prompt(9, 20, vocabulary), 4, user=name), note(name))
    while engine.busy:
        engine.step()
    assert order[-1] == "new"


def test_a_failing_constraint_ends_its_own_request_only(model: Transformer) -> None:
    class Broken:
        def allowed(self) -> None:
            raise ZeroDivisionError

        def accept(self, token: int) -> None: ...

    vocabulary = model.config.vocab_size
    good = Generation(prompt(1, 140, vocabulary), 5, sampling=GREEDY)
    bad = Generation(prompt(2, 140, vocabulary), 5, constraint=Broken())
    engine = core(model)
    fine, broken = run(engine, good, bad)
    assert isinstance(broken.last, ZeroDivisionError)
    assert fine.tokens == alone(model, good)


def test_a_constraint_that_allows_nothing_is_an_error(model: Transformer) -> None:
    class Nothing:
        def allowed(self) -> torch.Tensor:
            return torch.zeros(model.config.vocab_size, dtype=torch.bool)

        def accept(self, token: int) -> None: ...

    (answer,) = run(core(model), Generation((1, 2), 5, constraint=Nothing()))
    assert isinstance(answer.last, RequestError)


def test_one_request_alone_keeps_to_the_budget(model: Transformer) -> None:
    engine = core(model, 8 << 20, checkpoints=Checkpoints(None))
    memory, kept = engine.memory, torch.zeros(1, 1 << 20, dtype=torch.uint8)
    for i in range(12):  # as earlier ones leave them
        memory.cache.release([memory.cache.publish(None, b"%d" % i, kept.clone())])
    run(engine, Generation(prompt(50, 300, model.config.vocab_size), 2))
    assert memory.used <= memory.capacity


def test_a_budget_too_small_for_any_context_is_refused(model: Transformer) -> None:
    with pytest.raises(UsageError, match="hold a context"):
        Memory(model, 1 << 16)


def test_checkpoints_as_the_command_line_says_them() -> None:
    assert Checkpoints.parse("zero").period is None
    assert Checkpoints.parse("256").period == 256
    for bad in ("0", "100", "-128", "often"):
        with pytest.raises(UsageError, match="checkpoints"):
            Checkpoints.parse(bad)


class Dict:
    """A store that is a dictionary; some records get lost."""

    def __init__(self, lose: Callable[[], bool], *, for_good: bool = True) -> None:
        self.records: dict[tuple[str, bytes], bytes] = {}
        self._lose, self._for_good = lose, for_good

    def contains(self, kind: str, key: bytes) -> bool:
        return (kind, key) in self.records

    def get(self, kind: str, key: bytes) -> bytearray | None:
        if self._lose():
            if self._for_good:
                self.records.pop((kind, key))
            return None
        return bytearray(self.records[kind, key])

    def get_many(self, kind: str, keys: list[bytes]) -> list[bytearray]:
        found = takewhile(lambda data: data is not None, (self.get(kind, key) for key in keys))
        return [data for data in found if data is not None]

    def touch(self, kind: str, keys: list[bytes]) -> None: ...

    def put(self, kind: str, key: bytes, parts: Iterator[memoryview]) -> None:
        self.records[kind, key] = b"".join(parts)


def test_records_that_are_there_and_cannot_be_read(model: Transformer) -> None:
    """As on a failing disk: the request is computed, and the engine goes on."""
    ids = prompt(11, 700, model.config.vocab_size)
    failing: list[bool] = []
    store: Store = Dict(lambda: bool(failing), for_good=False)  # type: ignore[assignment]
    run(core(model, store=store), Generation(ids, 3))
    failing.append(True)
    generation = Generation(ids, 5, sampling=GREEDY)
    (answer,) = run(core(model, store=store), generation)
    assert (answer.tokens, answer.finish.cached) == (alone(model, generation), 0)


@pytest.mark.parametrize("loss", [0.0, 0.2])
@pytest.mark.parametrize("period", [256, None])
def test_what_was_stored_serves_a_new_process(
    model: Transformer, loss: float, period: int | None
) -> None:
    draw = random.Random(2)
    store: Store = Dict(lambda: draw.random() < loss)  # type: ignore[assignment]
    keep = Checkpoints(period)
    ids = prompt(11, 2100, model.config.vocab_size)
    run(core(model, store=store, checkpoints=keep), Generation(ids, 3))
    generation = Generation(ids, 12, sampling=GREEDY)
    (answer,) = run(core(model, store=store, checkpoints=keep), generation)
    assert answer.tokens == alone(model, generation)
    if not loss:
        assert answer.finish.cached == 2048 - (computed_again(model) if period is None else 0)
    (other,) = run(core(model, store=store, checkpoints=keep, binding=b"other"), generation)
    assert other.finish.cached == 0
