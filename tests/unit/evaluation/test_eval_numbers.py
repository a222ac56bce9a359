"""What evaluation counts with: intervals, n-gram models, log-probabilities, records."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from dsv4.chat.model import Model
from dsv4.data.documents import Text, encode_document, exchange
from dsv4.errors import DataError, UsageError
from dsv4.evaluation import local
from dsv4.evaluation.intervals import difference, mean, ratio, wilson
from dsv4.evaluation.local import LocalModel
from dsv4.evaluation.ngrams import NgramModel
from dsv4.evaluation.question import Likelihood, Scored
from dsv4.evaluation.records import Record, Records


def test_wilson_is_the_solution_of_its_equation() -> None:
    share, low, high = wilson(7, 10)
    assert share == 0.7
    for end in (low, high):  # |p - end| is 1.96 standard errors at `end`
        assert abs(0.7 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 10))
    assert wilson(0, 5).low == 0 and wilson(5, 5).high == 1
    assert math.isnan(wilson(0, 0).mean)


def test_a_mean_of_other_numbers_is_resampled() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400).tolist()
    found = mean(values)
    error = 1.96 * np.std(values) / math.sqrt(400)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(found.mean - error, abs=0.05)
    assert found.high == pytest.approx(found.mean + error, abs=0.05)
    assert mean(values) == found
    assert mean([1, 0, 1]) == wilson(2, 3)


def test_a_ratio_weighs_documents_by_their_size() -> None:
    assert ratio([10.0, 1.0], [1.0, 10.0]).mean == 1.0
    assert math.isnan(ratio([1.0], [2.0]).low)


def test_pairs_narrow_the_difference() -> None:
    easy = [float(i % 2) for i in range(200)]
    better = [1.0 if i % 10 == 0 else value for i, value in enumerate(easy)]
    gap = difference(better, easy)
    assert gap.mean == pytest.approx(0.1)
    assert 0.05 < gap.low < 0.1 < gap.high < 0.15
    assert mean(better).low < mean(easy).high  # apart from each other nothing is sure


def _documents() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[0, *(rng.integers(1, 6, size=n)).tolist()] for n in (30, 12, 1, 50)]


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_the_probabilities_of_an_ngram_model_sum_to_one(length: int) -> None:
    model = NgramModel.train(_documents(), length, 8)
    for history in ([0], [0, 3], [0, 3, 3, 3, 3, 3], [0, 7, 1], [0, 7, 7, 7, 7]):
        sums = sum(math.exp(model.logprobs([*history, token])[-1]) for token in range(8))
        assert sums == pytest.approx(1.0), history


def test_a_bigram_is_its_equation() -> None:
    """Kneser-Ney of length two, once more with dictionaries."""
    documents, V = _documents(), 8
    pairs = Counter(pair for ids in documents for pair in itertools.pairwise(ids))
    left = Counter(w for _, w in pairs)  # different tokens before w

    def discount(counts: Counter) -> float:  # type: ignore[type-arg]
        once, twice = (sum(c == n for c in counts.values()) for n in (1, 2))
        return once / (once + 2 * twice) if once else 0.5

    def lower(w: int) -> float:
        d, total = discount(left), sum(left.values())
        return max(left[w] - d, 0) / total + sum(min(c, d) for c in left.values()) / total / V

    def p(h: int, w: int) -> float:
        followers = {b: c for (a, b), c in pairs.items() if a == h}
        total, d = sum(followers.values()), discount(pairs)
        spared = sum(min(c, d) for c in followers.values())
        return (max(followers.get(w, 0) - d, 0) + spared * lower(w)) / total

    text = [0, 3, 1, 1, 5, 2, 7]
    wanted = [math.log(p(h, w)) for h, w in itertools.pairwise(text)]
    assert NgramModel.train(documents, 2, V).logprobs(text) == pytest.approx(wanted)


def test_longer_ngrams_learn_longer_patterns() -> None:
    pattern = [0, *([1, 1, 2, 1, 1, 3] * 40)]
    bits = [
        -NgramModel.train([pattern] * 2, length, 8).logprobs(pattern).mean() for length in (1, 2, 5)
    ]
    assert bits[0] > bits[1] > 10 * bits[2]
    with pytest.raises(UsageError, match="no text"):
        NgramModel.train([], 2, 8)


@pytest.fixture(scope="module")
def exact(tiny_folder: Path) -> Model:
    from dsv4.chat.model import load

    return load(tiny_folder, "exact")


def test_scored_documents_are_the_sums_of_their_tokens(exact: Model) -> None:
    """Batches, padding and masks change nothing: each document alone gives the same."""
    documents = (Text("One."), exchange("Why?", "Because it is."), Text("A longer text. " * 5))
    answers = dict(LocalModel(exact).answer([Likelihood(documents), Likelihood(documents[:1])]))
    found = answers[0]
    assert isinstance(found, Scored) and isinstance(answers[1], Scored)
    for i, document in enumerate(documents):
        ids, learned = encode_document(exact.tokenizer, document)
        logprobs_TV = exact.logits(ids[:-1]).double().log_softmax(-1)
        picked = logprobs_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        wanted = float(picked[torch.tensor(learned[1:])].sum())
        assert found.logprobs[i] == pytest.approx(wanted, rel=1e-5)
        assert found.tokens[i] == sum(learned)
    assert found.tokens[1] == len("Because it is.") + 1  # bytes are tokens, and EOS
    assert answers[1].logprobs[0] == pytest.approx(found.logprobs[0], rel=1e-6)


def test_the_end_may_be_left_out_and_long_documents_go_on(
    exact: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Text("abcdefghij")
    target = LocalModel(exact)

    def total(question: Likelihood) -> Scored:
        ((_, answer),) = target.answer([question])
        assert isinstance(answer, Scored)
        return answer

    whole, without = total(Likelihood((text,))), total(Likelihood((text,), end=False))
    assert (whole.tokens, without.tokens) == ((11,), (10,))
    assert whole.logprobs[0] < without.logprobs[0]
    monkeypatch.setattr(local, "WINDOW", 6)  # BOS abcde, BOS fghij, BOS EOS
    ids = exact.tokenizer.encode
    parts = [ids("abcde"), ids("fghij"), [exact.tokenizer.eos_id]]
    wanted = 0.0
    for part in parts:
        row = [exact.tokenizer.bos_id, *part]
        logprobs = exact.logits(row[:-1]).double().log_softmax(-1)
        wanted += sum(float(logprobs[t, token]) for t, token in enumerate(part))
    cut = total(Likelihood((text,)))
    assert cut.tokens == (11,)
    assert cut.logprobs[0] == pytest.approx(wanted, rel=1e-5)


def test_records_survive_and_belong_to_one_target(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    first = Record("0", "g", "d", {"right": 1.0}, text="ü\n", logprobs=(-1.5,))
    with Records(path, "model a") as records:
        records.add(first)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "1", "gro')  # the process was killed here
    with Records(path, "model a") as again:
        assert again.known == {"0": first}
        again.add(Record("1", "g", "d", {"right": 0.0}))
    with Records(path, "model a") as whole:
        assert whole.known.keys() == {"0", "1"}
    with pytest.raises(UsageError, match="another model"):
        Records(path, "model b")


def test_other_files_are_not_taken_for_records(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "precious"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no records"):
        Records(path, "model")
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": "precious"}
