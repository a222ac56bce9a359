"""Every known failure of V4 implementations is noticed, and named by the numbers it leaves.

All are planted into our reference in one walk through one model: a variant for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dsv4.checkpoint.plan import make_plan
from dsv4.errors import UsageError
from dsv4.evaluation.conformance import diagnosis, lengths
from dsv4.evaluation.conformance.comparison import Comparison
from dsv4.evaluation.conformance.diagnosis import Diagnosis
from dsv4.evaluation.conformance.faults import FAULTS, fault
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import TRUTH, Variant
from dsv4.evaluation.conformance.walk import Layer, Walk
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import BF16, EXACT, OFFICIAL
from dsv4.presets import preset

DOCS = Path(__file__).parents[4] / "docs" / "verify.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
LENGTH = 132
STEPS = (4, 8, 37, LENGTH)
ROUNDING_ONLY = ("indexer-without-hadamard",)
"""What `exact` cannot show, since it does not round: planted into `official`."""
AS_SMALL_AS_ROUNDING = {
    "yarn-everywhere",
    "no-yarn",
    "overlap-lost-between-chunks",
    "indexer-without-hadamard",
    "cache-in-int8",
    "sinkhorn-of-other-axis",
    "eps-in-post",
    "router-in-bfloat16",
    "biased-weights",
    "indexer-without-relu",
    "mtp-of-collapsed-stream",
}
"""What an implementation that rounds to bfloat16 can have unnoticed, in so short a prompt."""


def walk(
    folder: Path,
    variants: Sequence[Variant],
    evidence: Diagnosis | None = None,
    layers: int | None = None,
) -> Walk:
    plan = make_plan(folder)
    layers = plan.config.num_hidden_layers if layers is None else layers

    def visit(layer: Layer, rows: Sequence[Comparison]) -> None:
        wrong = {row.variant: layer.computed[row.variant] for row in rows if not row.ok}
        if evidence is not None and wrong:
            evidence.add(layer.block, layer.inputs, layer.ticket, wrong)

    ids = lengths.prompt(plan.config, LENGTH)
    made = Walk(Pieces(plan), ids, variants, STEPS, layers, visit)
    made.run()
    return made


def beyond(rows: Sequence[Comparison], variant: str) -> list[Comparison]:
    return [row for row in rows if row.variant == variant and not row.ok]


@pytest.fixture(scope="module")
def found(three_layers: Path) -> dict[str, list[Comparison]]:
    """Fault -> comparisons in which it shows."""
    variants = [Variant("sound", EXACT, ((TRUTH, "float32"),)), Variant("official", OFFICIAL, ())]
    for name, one in FAULTS.items():
        if name in ROUNDING_ONLY:
            variants.append(Variant(name, OFFICIAL, (("official", "kernels"),), one.planted))
        else:
            variants.append(Variant(name, EXACT, ((TRUTH, "float32"),), one.planted))
    rows = walk(three_layers, variants).rows
    return {variant.name: beyond(rows, variant.name) for variant in variants}


CONVERGED, TINY = "sinkhorn-of-other-axis", "eps-in-post"
"""Normalising in another order ends at the same matrix, but for how near 20 iterations come to it:
it shows where mixing is nearly a permutation. The released eps of 1e-6 is less than float32 sums
differ by. Each has a model and a test of its own."""


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {CONVERGED, TINY}))
def test_every_known_failure_is_noticed(found: dict[str, list[Comparison]], name: str) -> None:
    assert found[name], "nothing differs"


def test_the_order_of_sinkhorn_is_noticed_where_it_matters(
    damaged: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = damaged("layers.0.hc_attn_scale", lambda x: 8 * x)
    shown_in_the_first_layer(folder, CONVERGED, monkeypatch)


def test_an_eps_in_the_wrong_place_is_noticed_where_it_is_large(
    damaged: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown_in_the_first_layer(damaged(config={"hc_eps": 1e-3}), TINY, monkeypatch)


def shown_in_the_first_layer(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer as a whole is the first part in which a failure of hyper-connections shows, and it
    is named alone among them."""
    tried = {other: one for other, one in FAULTS.items() if one.number == 9}
    monkeypatch.setattr(diagnosis, "FAULTS", tried)
    variant = Variant(name, EXACT, ((TRUTH, "float32"),), FAULTS[name].planted)
    found = Diagnosis(EXACT, "float32")
    first = beyond(walk(folder, [variant], found, layers=1).rows, name)[0]
    assert (first.layer, first.part) == ("layers.0", "layer")
    assert [suspect.fault.name for suspect in found.suspects(name)] == [name]


def test_nothing_is_noticed_where_nothing_is_wrong(found: dict[str, list[Comparison]]) -> None:
    assert found["sound"] == []


@pytest.mark.parametrize(
    ("name", "layer", "part"),
    [
        ("split-half-rope", "layers.0", "window"),
        ("one-rope-base", "layers.1", "window"),
        ("entries-at-index", "layers.1", "entries"),
        ("no-derotation", "layers.0", "attention"),
        ("overlap-lost-between-chunks", "layers.1", "steps"),
        ("indexer-without-relu", "layers.1", "selection"),
        ("sigmoid-scores", "layers.0", "affinities"),
        ("hash-without-ids", "layers.0", "choice"),
        ("shared-expert-not-clamped", "layers.0", "experts, large"),
        ("clamp-after-quantisation", "layers.0", "experts, large"),
        ("naive-softplus", "layers.0", "affinities, large"),
        ("comb-not-transposed", "layers.0", "layer"),
        ("sinkhorn-of-sigmoids", "layers.0", "layer"),
        ("mtp-of-collapsed-stream", "mtp.0", "prediction"),
    ],
)
def test_the_place_of_a_failure_is_found(
    found: dict[str, list[Comparison]], name: str, layer: str, part: str
) -> None:
    first = found[name][0]
    assert (first.layer, first.part) == (layer, part)


def test_the_position_from_which_it_shows(found: dict[str, list[Comparison]]) -> None:
    # The first entry of a CSA layer is complete with token 3, the indexer's choice begins at 36.
    late = next(row for row in found["entries-one-token-late"] if row.part == "attention")
    assert late.first == 3
    assert found["indexer-without-relu"][0].first is not None
    assert found["indexer-without-relu"][0].first >= 36 - 1
    assert found["overlap-lost-between-chunks"][0].first == 7


def test_the_table_in_the_docs(found: dict[str, list[Comparison]], tmp_path: Path) -> None:
    rows = ["| | failure | | first seen in |", "|---|---|---|---|"]
    for name, one in sorted(FAULTS.items(), key=lambda item: item[1].number):
        first = found[name][0] if name not in (CONVERGED, TINY) else None
        place = f"{first.part} ({first.kind})" if first is not None else "layer (SWA)"
        rows.append(f"| {one.number} | `{name}` | {one.title} | {place} |")
    head, rest = DOCS.read_text(encoding="utf-8").split(BEGIN)
    text = "\n".join([head + BEGIN, *rows, END + rest.split(END)[1]])
    (tmp_path / DOCS.name).write_text(text, encoding="utf-8")
    assert DOCS.read_text(encoding="utf-8") == text, f"copy {tmp_path / DOCS.name} to docs"


@pytest.mark.slow
def test_failures_are_named_in_an_implementation_that_rounds(three_layers: Path) -> None:
    # Planted where operators round to bfloat16, explained by a reference that does not.
    how = ((TRUTH, "bfloat16"),)
    variants = [Variant("sound", BF16, how)]
    variants += [Variant(name, BF16, how, one.planted) for name, one in FAULTS.items()]
    evidence = Diagnosis(EXACT, "bfloat16")
    rows = walk(three_layers, variants, evidence).rows
    assert beyond(rows, "sound") == [] and evidence.suspects("sound") == []
    wrong = {}
    for name in FAULTS.keys() - AS_SMALL_AS_ROUNDING:
        named = [suspect.fault.name for suspect in evidence.suspects(name)]
        if named[:1] != [name]:
            wrong[name] = named
    assert wrong == {}


def test_a_failure_leaves_no_trace(three_layers: Path) -> None:
    from dsv4 import ops
    from dsv4.model import attention, compressor, indexer, moe, mtp
    from dsv4.numerics import formats
    from dsv4.ops import binding
    from dsv4.ops.reference import hyper

    def state() -> list[object]:
        owners = (attention, compressor, moe, mtp, formats, hyper)
        classes = (
            attention.Attention,
            compressor.Compressor,
            indexer.Indexer,
            moe.Gate,
            mtp.PredictionBlock,
        )
        held = [value for owner in (*owners, *classes) for value in vars(owner).values()]
        return [*held, *(op._bound for op in binding._OPS.values())]

    before = state()
    for one in FAULTS.values():
        with pytest.raises(ZeroDivisionError), one.planted():
            raise ZeroDivisionError
    after = state()
    assert len(before) == len(after)
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert ops.fused("connections", Transformer(preset("tiny")), EXACT) is None


def test_an_unknown_failure() -> None:
    assert fault("no-yarn").number == 1
    with pytest.raises(UsageError, match="no known failure is called 'x'"):
        fault("x")


def test_what_is_said_about_a_failure() -> None:
    assert all(1 <= one.number <= 23 and one.title and one.hint for one in FAULTS.values())
    assert len({one.title for one in FAULTS.values()}) == len(FAULTS)
