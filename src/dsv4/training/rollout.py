"""Rollouts: answers of the policy as the serving engine draws them, with all that training needs.

The engine runs the model that users will run: kernels, paged states and, where the released
layout is quantised, weights rounded to its formats (V4 samples with true FP4 weights). Weights
go from the trained model to the engine in memory; what is not rounded is shared, not copied.

T: positions, L: layers, K: experts per token.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.checkpoint.layout import without_mtp
from dsv4.engine.core import Core
from dsv4.engine.memory import Memory
from dsv4.engine.request import Event, Finish, Generation, Token
from dsv4.engine.sampler import Sampling
from dsv4.model.transformer import Transformer
from dsv4.model.weights import set_weight, weights
from dsv4.numerics.policy import EXACT, FAST
from dsv4.numerics.quantized import Format, QuantizedTensor, quantize
from dsv4.ops.fused import available


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt to answer with at most `max_tokens` ids; equal seeds draw equal answers."""

    ids: tuple[int, ...]
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    answer: the drawn ids, the stop id included if `complete` (else the limit cut it off).
    logprobs: of each of them, in the distribution it was drawn from. experts_TLK: what computed
    every id of prompt and answer but the last, which nothing was drawn after.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    logprobs: tuple[float, ...]
    complete: bool
    experts_TLK: Tensor

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and answer."""
        return self.prompt + self.answer


class Actor:
    """Answers prompts with the present weights of a model.

    formats: name -> format of the weights that are rounded for it (`rounding.released_formats`;
    empty: none). The prediction block is left out: a guess changes no answer.
    """

    def __init__(
        self, model: Transformer, stop_ids: frozenset[int], formats: Mapping[str, Format]
    ) -> None:
        self._model, self._stop_ids, self._formats = model, stop_ids, formats
        with torch.device("meta"):
            numerics = FAST if available() else EXACT
            self._serving = Transformer(without_mtp(model.config), numerics)

    def sample(self, asks: Sequence[Ask], temperature: float = 1.0) -> list[Sample]:
        """One answer to each prompt, in their order.

        Raises UsageError for a prompt that leaves no room to answer in the model's context.
        """
        self._take_weights()
        core = Core(self._serving, Memory(self._serving, sys.maxsize), speculation="off")
        drawing = [_Drawing(ask) for ask in asks]
        groups: dict[tuple[int, ...], list[_Drawing]] = {}  # of equal prompts
        for one in drawing:
            groups.setdefault(one.ask.ids, []).append(one)

        def add(one: _Drawing, group: int) -> None:
            ask, sampling = one.ask, Sampling(temperature=temperature, seed=one.ask.seed)
            generation = Generation(
                ask.ids, ask.max_tokens, self._stop_ids, sampling, user=str(group), routing=True
            )
            core.check(generation)
            core.add(generation, one.take)

        # The first of each group reads the prompt; the others, and nobody else, go on from there.
        waiting = dict(enumerate(groups.values()))
        for number, group in waiting.items():
            add(group[0], number)
        with ops.use("reference"):  # what the kernels do not compute, with a state
            while core.busy:
                core.step()
                for number in [n for n, group in waiting.items() if group[0].has_read]:
                    for one in waiting.pop(number)[1:]:
                        add(one, number)
        return [one.sample(groups[one.ask.ids][0]) for one in drawing]

    @torch.no_grad()
    def _take_weights(self) -> None:
        """Hand the present weights to the engine's model."""
        for name, value in list(weights(self._model)):
            if name.startswith("mtp."):
                continue
            form = self._formats.get(name)
            if isinstance(value, QuantizedTensor):
                set_weight(self._serving, name, value.to("cpu"))
            elif form is not None:
                set_weight(self._serving, name, quantize(value.cpu(), form))
            else:
                set_weight(self._serving, name, value.detach().cpu())


class _Drawing:
    """Collects what the engine delivers for one prompt."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self._tokens: list[Token] = []
        self._finish: Finish | None = None

    def take(self, event: Event | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Token):
            self._tokens.append(event)
        elif isinstance(event, Finish):
            self._finish = event

    @property
    def has_read(self) -> bool:
        """Whether its prompt is behind it."""
        return bool(self._tokens) or self._finish is not None

    def sample(self, first: _Drawing) -> Sample:
        """What was drawn. first: who computed what this one did not compute again."""
        finish, before = self._finish, first._finish
        assert finish is not None and finish.routing is not None
        assert before is not None and before.routing is not None
        finish.routing[: finish.cached] = before.routing[: finish.cached]
        tokens = [*self._tokens, *([finish.stop] if finish.stop is not None else [])]
        return Sample(
            self.ask.ids,
            tuple(token.id for token in tokens),
            tuple(token.logprob for token in tokens),
            finish.reason == "stop",
            finish.routing,
        )
