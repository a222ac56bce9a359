"""From a checked folder to a model whose weights stay in their mapped files."""

from __future__ import annotations

import logging
import math
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dsv4.checkpoint.experts import ExpertStore
from dsv4.checkpoint.folder import Reader
from dsv4.checkpoint.layout import F32, TOKEN_MAP
from dsv4.checkpoint.plan import Layout, Plan, Source, make_plan
from dsv4.checkpoint.tables import TableStore, table_sources
from dsv4.checkpoint.values import check_values
from dsv4.config import ModelConfig
from dsv4.errors import CheckpointError, UsageError
from dsv4.model.retrofit import set_token_map
from dsv4.model.transformer import Transformer
from dsv4.model.weights import set_weight
from dsv4.numerics.policy import EXACT, Numerics
from dsv4.numerics.quantized import FP8_32, QuantizedTensor, Weight

logger = logging.getLogger("dsv4.checkpoint")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was loaded. `notes`: sentences worth showing to the person who asked for it."""

    config: ModelConfig
    layout: Layout
    tensors: int
    nbytes: int
    notes: tuple[str, ...]


WORKING = 192 << 20
"""Bytes left to intermediate results and the decoding state when memory is limited."""


CanonicalIds = Callable[[int], Sequence[int]]
"""Given the size of a vocabulary, the canonical ids of its tokens: `Tokenizer.canonical_ids`."""


def load(
    folder: Path | str,
    numerics: Numerics = EXACT,
    *,
    memory_limit: int | None = None,
    canonical_ids: CanonicalIds | None = None,
) -> Transformer:
    """A model with the weights of a folder in the released or the transformers layout.

    Weights stay where they are: pages of the files are read when a layer first needs them.
    Raises ConfigError and CheckpointError before anything is built. What there is to say about
    the folder goes to the `dsv4.checkpoint` log as warnings.

    `memory_limit`: bytes that may be resident. What the other weights leave of it holds routed
    experts, which are read when they are needed, as are the rows of Engram tables if not all fits;
    UsageError if that is too little.
    `canonical_ids`: asked if there is an Engram whose token map the folder does not store.
    """
    plan = make_plan(folder)
    # Looking for NaN reads pages, which would count against the limit.
    notes = plan.notes + check_values(plan, None if memory_limit is None else False)
    for note in notes:
        logger.warning("%s: %s", folder, note)
    model = _build(plan, numerics, canonical_ids)
    if memory_limit is None:
        return model
    experts, tables = _streamed(plan, memory_limit)
    model.stream_experts(experts)
    if tables is not None:
        model.stream_tables(tables)
    return model


def _streamed(plan: Plan, memory_limit: int) -> tuple[ExpertStore, TableStore | None]:
    """Experts in what is left of `memory_limit` bytes. Engram tables stay on disk unless all fits:
    their rows are small, and known long before they are needed."""
    experts = sum(source.nbytes for source in plan.sources if source.parameter.expert)
    tables = sum(source.nbytes for source in table_sources(plan))
    taken = plan.nbytes - experts + _copied(plan) + resident() + WORKING
    on_disk = tables > 0 and taken + experts > memory_limit
    if on_disk:
        taken -= tables
    try:
        store = ExpertStore.of(plan, max(0, memory_limit - taken))
    except UsageError as error:
        raise UsageError(
            f"{memory_limit / 2**30:.2f} GiB are too little: {taken / 2**30:.2f} GiB go to the "
            f"program, intermediate results and the weights that every token needs; {error}",
            f"give {math.ceil((taken + _least(plan)) / 2**20)}M or more",
        ) from error
    return store, TableStore.of(plan) if on_disk else None


def _copied(plan: Plan) -> int:
    """Bytes of the weights that kernels use in another form: two for every one as it is stored."""
    return sum(2 * source.data.nbytes for source in plan.sources if source.format is FP8_32)


def _least(plan: Plan) -> int:
    """About the bytes of the experts that must be in memory at once."""
    sizes = [source.nbytes for source in plan.sources if source.parameter.expert]
    # Three matrices, a token's experts and as many read ahead, and slack for whole pages.
    return 2 * plan.config.num_experts_per_tok * (3 * max(sizes, default=0) + (64 << 10))


def resident() -> int:
    """Bytes of memory this process takes now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * mmap.PAGESIZE


def load_with_report(
    folder: Path | str, numerics: Numerics = EXACT, *, check_all_values: bool | None = None
) -> tuple[Transformer, LoadReport]:
    """Like `load`, with a report instead of log lines.

    `check_all_values`: look for NaN in every tensor (True), only in small dense ones and in the
    block scales of dense matrices (False), or in `values.READ_BYTES` more than those (None).
    """
    plan = make_plan(folder)
    notes = plan.notes + check_values(plan, check_all_values)
    model = _build(plan, numerics)
    stored = sum(2 if source.scale is not None else 1 for source in plan.sources)
    return model, LoadReport(plan.config, plan.layout, stored, plan.nbytes, notes)


def _build(
    plan: Plan, numerics: Numerics, canonical_ids: CanonicalIds | None = None
) -> Transformer:
    if plan.lacks_token_map and canonical_ids is None:
        raise CheckpointError(
            f"{plan.folder}: no {TOKEN_MAP}, which the Engram of this model needs",
            "it follows from the tokenizer.json that belongs to these weights",
        )
    with torch.device("meta"):
        model = Transformer(plan.config, numerics)
    fill(model, plan.sources)
    if plan.lacks_token_map and canonical_ids is not None:
        set_token_map(model, canonical_ids(plan.config.vocab_size))
    return model.eval()


def fill(module: nn.Module, sources: Iterable[Source], prefix: str = "") -> None:
    """Map stored weights into `module`, which has them under their names without `prefix`. The
    files stay mapped as long as it lives."""
    reader = Reader()
    for source in sources:
        set_weight(module, source.parameter.name.removeprefix(prefix), _value(source, reader))


def _value(source: Source, reader: Reader) -> Weight:
    data = reader.tensor(source.data)
    if source.format is not None:
        assert source.scale is not None
        return QuantizedTensor(data, reader.tensor(source.scale), source.format)
    if not data.is_floating_point():
        return data.to(torch.int64)
    # What the layout keeps in float32 is small and used as such.
    return data.to(F32) if source.parameter.dtype == F32 else data
