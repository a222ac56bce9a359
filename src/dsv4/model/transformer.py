"""DeepSeek-V4: embedding, layers, head, and the prediction block.

Shapes: B batch, T tokens, S residual streams, D hidden channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dsv4 import ops
from dsv4.config import SWA, ModelConfig
from dsv4.engram import EngramConfig
from dsv4.errors import UsageError
from dsv4.model.block import Block, collapse_head
from dsv4.model.engram import Engram, NgramIndex, TableSource, Ticket
from dsv4.model.moe import ExpertSource, Routing
from dsv4.model.mtp import PredictionBlock
from dsv4.model.parameters import Dense, Embedding, Norm
from dsv4.model.state import REWIND, State
from dsv4.numerics.policy import EXACT, Numerics
from dsv4.ops.fused import forget

READ_AHEAD = 8
"""Most tokens of a step for which experts are guessed and read ahead: many tokens need most."""


@dataclass(frozen=True, slots=True)
class Output:
    """One forward pass.

    `logits_BTV`: float32; T is 1 if only the last position was asked for.
    `streams_BTSD`: residual streams after the last layer, what the prediction block reads.
    `routing`: the router's choice, one entry per layer.
    """

    logits_BTV: Tensor
    streams_BTSD: Tensor
    routing: tuple[Routing, ...]


@dataclass(frozen=True, slots=True)
class Features:
    """A forward pass up to the head: what it reads `x_BTD`; streams and routing as in Output."""

    x_BTD: Tensor
    streams_BTSD: Tensor
    routing: tuple[Routing, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The next tokens `ids_T` of a sequence, and its state (of one sequence), which they extend;
    logits are computed for the last `wanted` of them."""

    ids_T: Tensor
    state: State
    wanted: int


class Transformer(nn.Module):
    """A V4 model. Parameter names are the tensor names of the released checkpoint.

    Built with uninitialised weights: a checkpoint or `init_weights` fills them.
    """

    def __init__(self, config: ModelConfig, numerics: Numerics = EXACT) -> None:
        super().__init__()
        S, hidden = config.hc_mult, config.hidden_size
        self.config, self.numerics = config, numerics
        self.embed = Embedding(config.vocab_size, hidden)
        engram = config.engram
        self.ngrams = NgramIndex(engram, config.vocab_size) if engram is not None else None
        self.layers = nn.ModuleList(make_layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = Norm(hidden)
        self.head = Dense(hidden, config.vocab_size)
        self.hc_head_fn = nn.Parameter(torch.empty(S, S * hidden))
        self.hc_head_base = nn.Parameter(torch.empty(S))
        self.hc_head_scale = nn.Parameter(torch.empty(1))
        blocks = 0 if config.draft_stages else config.num_nextn_predict_layers
        self._streamed = False
        self._tables: TableSource | None = None
        self.mtp = nn.ModuleList(PredictionBlock(config) for _ in range(blocks))

    def stream_experts(self, source: ExpertSource) -> None:
        """Take routed experts from `source`, under the number of their layer, from now on.

        The prediction blocks count on from the last layer. Needs `fast` and native kernels.
        """
        self._streamed = True
        for i, block in enumerate([*self.layers, *self.mtp]):
            block.ffn.source, block.ffn.layer = source, i
            forget(block.ffn)
        forget(self)

    def stream_tables(self, source: TableSource) -> None:
        """Take the rows of Engram tables from `source` from now on."""
        self._tables = source
        for engram in self.engrams().values():
            engram.source = source
        forget(self)

    @property
    def streams_tables(self) -> bool:
        """Whether reading ahead can save time."""
        return self._tables is not None

    def engrams(self) -> dict[int, Engram]:
        """The memories by the number of their layer."""
        memories = ((i, cast(Block, block).engram) for i, block in enumerate(self.layers))
        return {i: memory for i, memory in memories if memory is not None}

    def read_ahead(self, ids_T: Tensor, state: State, first: int = 0) -> None:
        """Begin to read what the tables hold for `ids_T[first:]`; all of `ids_T` is to follow
        `state`. Nothing to do while they are in memory."""
        if self._tables is None or self.ngrams is None:
            return
        found = self.ngrams(ids_T[None], state.ids, state.length)
        for number, rows_BTR in enumerate(found):
            self._tables.read_ahead(number, rows_BTR[:, first:])

    def new_state(self, batch: int = 1, rewind: int = REWIND) -> State:
        """An empty decoding state of the main model; `rewind`: tokens it can go back."""
        return self._state(self.config.layer_ratios, batch, rewind, self.config.engram)

    def new_mtp_state(self, batch: int = 1, rewind: int = REWIND) -> State:
        """An empty decoding state of the prediction block."""
        return self._state((SWA,), batch, rewind)

    def _state(
        self,
        ratios: tuple[int, ...],
        batch: int,
        rewind: int,
        engram: EngramConfig | None = None,
    ) -> State:
        packed = self.numerics.packed
        return State.empty(self.config, ratios, batch, rewind, packed=packed, engram=engram)

    def forward(
        self, ids_BT: Tensor, state: State | None = None, *, last_only: bool = False
    ) -> Output:
        """Logits for every position (or the last) of `ids_BT`, which follow `state`.

        Without a state the tokens stand at positions 0, 1, ... and nothing is remembered
        (this form is differentiable). Raises UsageError for ids outside the vocabulary or a
        context beyond `max_position_embeddings`.
        """
        start = self._check(ids_BT, state)
        if state is None and self.numerics.packed:
            state = self.new_state(ids_BT.shape[0])
        whole = ops.fused("model", self, self.numerics)
        if whole is not None and state is not None:
            B, T = ids_BT.shape
            state.reserve(start + T)
            numbers_BT = torch.arange(B * T).view(B, T)
            wanted = numbers_BT[:, -1] if last_only else numbers_BT.flatten()
            logits, streams, scores_LNE, experts_LNK = whole(
                ids_BT.flatten(), [(state, T, start)], wanted
            )
            rows = zip(scores_LNE.unbind(), experts_LNK.unbind(), strict=True)
            output = Output(
                logits.unflatten(0, (B, -1)),
                streams.unflatten(0, (B, T)),
                tuple(Routing(*row) for row in rows),
            )
        else:
            seen = self._layer_by_layer(ids_BT, start, state, last_only)
            output = Output(self._logits(seen.x_BTD), seen.streams_BTSD, seen.routing)
        if state is not None:
            state.length += ids_BT.shape[1]
        return output

    def forward_many(self, pieces: Sequence[Piece]) -> list[Output]:
        """What `forward` gives for every piece, all of them computed together where the backend
        can: a token's numbers are the same either way.

        Raises UsageError as `forward` does, before anything is computed.
        """
        starts = [self._check(piece.ids_T[None], piece.state) for piece in pieces]
        whole = ops.fused("model", self, self.numerics)
        if whole is None:
            for piece in pieces:
                self.read_ahead(piece.ids_T, piece.state)
            return [self._alone(piece) for piece in pieces]
        runs, wanted, total = [], [], 0
        for piece, start in zip(pieces, starts, strict=True):
            T = piece.ids_T.numel()
            piece.state.reserve(start + T)
            runs.append((piece.state, T, start))
            total += T
            wanted.append(torch.arange(total - piece.wanted, total))
        ids_N = torch.cat([piece.ids_T for piece in pieces])
        logits_WV, streams_NSD, scores_LNE, experts_LNK = whole(ids_N, runs, torch.cat(wanted))
        lengths = [T for _, T, _ in runs]
        outputs = []
        for piece, logits, streams, scores, experts in zip(
            pieces,
            logits_WV.split([piece.wanted for piece in pieces]),
            streams_NSD.split(lengths),
            scores_LNE.split(lengths, 1),
            experts_LNK.split(lengths, 1),
            strict=True,
        ):
            piece.state.length += piece.ids_T.numel()
            rows = zip(scores.unbind(), experts.unbind(), strict=True)
            outputs.append(
                Output(logits[None], streams[None], tuple(Routing(*row) for row in rows))
            )
        return outputs

    def _alone(self, piece: Piece) -> Output:
        output = self(piece.ids_T[None], piece.state, last_only=piece.wanted <= 1)
        logits_BTV = output.logits_BTV[:, output.logits_BTV.shape[1] - piece.wanted :]
        return Output(logits_BTV, output.streams_BTSD, output.routing)

    def features(self, ids_BT: Tensor) -> Features:
        """What `forward` without a state computes, but for the head: for training.

        Raises UsageError as `forward` does.
        """
        return self._layer_by_layer(ids_BT, self._check(ids_BT, None), None, last_only=False)

    def _layer_by_layer(
        self, ids_BT: Tensor, start: int, state: State | None, last_only: bool
    ) -> Features:
        x_BTD = self.embed(ids_BT, self.numerics.dtype)
        streams = x_BTD.unsqueeze(2).expand(-1, -1, self.config.hc_mult, -1)
        routing = []
        tickets = self._submit(ids_BT, start, state)
        ahead = self._streamed and ids_BT.shape[1] <= READ_AHEAD
        hashed = self.config.num_hash_layers
        if ahead:  # the first layers' experts follow from the ids alone
            for layer in self.layers[:hashed]:
                cast(Block, layer).read_ahead(streams, ids_BT)
        for i, layer in enumerate(self.layers):
            if ahead and i >= hashed:
                cast(Block, layer).read_ahead(streams, ids_BT)
            part = state.layers[i] if state is not None else None
            ticket = tickets.get(i)
            streams, choice = layer(streams, ids_BT, start, part, self.numerics, ticket)
            routing.append(choice)
        seen = streams[:, -1:] if last_only else streams
        return Features(collapse_head(seen, self, self.numerics), streams, tuple(routing))

    def _submit(self, ids_BT: Tensor, start: int, state: State | None) -> dict[int, Ticket]:
        """What the Engram of each layer is going to read, asked for before the first layer."""
        if self.ngrams is None:
            return {}
        past = state.ids if state is not None else None
        found = self.ngrams(ids_BT, past, start)
        if past is not None:
            past.write(start, ids_BT.unsqueeze(-1).float())
        return {
            layer: engram.submit(found[engram.number], self.numerics)
            for layer, engram in self.engrams().items()
        }

    def predict_next(
        self, streams_BTSD: Tensor, next_ids_BT: Tensor, state: State | None = None
    ) -> Output:
        """Logits for the token after `next_ids_BT` (MTP), from the main model's streams.

        `streams_BTSD[t]` are those of position t, `next_ids_BT[t]` is token t + 1; `state` is
        one of `new_mtp_state`. Raises UsageError if this model has no prediction block.
        """
        seen = self.next_features(streams_BTSD, next_ids_BT, state)
        return Output(self._logits(seen.x_BTD), seen.streams_BTSD, seen.routing)

    def next_features(
        self, streams_BTSD: Tensor, next_ids_BT: Tensor, state: State | None = None
    ) -> Features:
        """What `predict_next` computes, but for the head."""
        if not self.mtp:
            raise UsageError("this model has no MTP block")
        start = self._check(next_ids_BT, state)
        block = self.mtp[0]
        assert isinstance(block, PredictionBlock)
        if state is None and self.numerics.packed:
            state = self.new_mtp_state(next_ids_BT.shape[0])
        embedded = self.embed(next_ids_BT, self.numerics.dtype)
        part = state.layers[0] if state is not None else None
        x_BTD, streams, routing = block.predict(
            streams_BTSD, embedded, next_ids_BT, start, part, self.numerics
        )
        if state is not None:
            state.length += next_ids_BT.shape[1]
        return Features(x_BTD, streams, (routing,))

    def _logits(self, x_BTD: Tensor) -> Tensor:
        fused = ops.fused("linear", self.head, self.numerics)
        if fused is not None:
            logits_BTV: Tensor = fused(x_BTD)
            return logits_BTV
        return ops.linear_f32(x_BTD, self.head.weight, self.numerics)

    def _check(self, ids_BT: Tensor, state: State | None) -> int:
        """Validate a call's ids; returns the position of the first one."""
        start = state.length if state is not None else 0
        if ids_BT.dim() != 2 or ids_BT.dtype not in (torch.int64, torch.int32):
            raise UsageError("token ids must be integers of shape [batch, tokens]")
        if state is not None and state.shape.batch != ids_BT.shape[0]:
            raise UsageError(f"a state of {state.shape.batch} sequences got {ids_BT.shape[0]}")
        if ids_BT.shape[1] == 0:
            raise UsageError("no token ids were given")
        if start + ids_BT.shape[1] > self.config.max_position_embeddings:
            raise UsageError(
                f"{start + ids_BT.shape[1]} tokens exceed the context of "
                f"{self.config.max_position_embeddings}"
            )
        # A single id, as in decoding, is looked at in less time than a reduction takes.
        bounds = (ids_BT, ids_BT) if ids_BT.numel() == 1 else torch.aminmax(ids_BT)
        low, high = (int(bound) for bound in bounds)
        if low < 0 or high >= self.config.vocab_size:
            raise UsageError(
                f"token id {low if low < 0 else high} is outside the vocabulary "
                f"(0 to {self.config.vocab_size - 1})"
            )
        return start


def make_layer(config: ModelConfig, layer: int) -> Block:
    """Layer number `layer` of a model, its weights not set."""
    return Block(
        config,
        config.layer_ratios[layer],
        hashed=config.is_hash_layer(layer),
        engram=_engram(config, layer),
    )


def _engram(config: ModelConfig, layer: int) -> Engram | None:
    """The Engram of a layer, if it has one."""
    engram = config.engram
    number = engram.index(layer) if engram is not None else None
    if engram is None or number is None:
        return None
    return Engram(config, engram, number)
