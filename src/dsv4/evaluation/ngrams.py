"""n-gram models over a tokenizer's ids: what a number of bits per byte is compared with.

Interpolated Kneser-Ney with one discount per order (Kneser and Ney 1995; Chen and Goodman 1999,
equation 28), its last resort uniform over the vocabulary: the probabilities of all tokens after
any history sum to 1.

    p_k(w | h) = max(c(h w) - D, 0) / c(h) + D N(h) / c(h) p_{k-1}(w | h')

c counts occurrences at the highest order and different tokens to the left below it; N(h) is how
many different tokens follow h; h' is h without its first token; D = n1 / (n1 + 2 n2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.evaluation.local import encoded
from dsv4.evaluation.question import Answer, Likelihood, Question, Scored

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """The grams of one length, sorted by key.

    A key is (number of the gram without its last token) * V + last token; numbers are places in
    the table of the order below. `discounted`: max(c(h w) - D, 0); `total` and `spared` belong to
    histories: c(h) and D N(h).
    """

    keys: Ids
    discounted: Floats
    total: Floats
    spared: Floats


class NgramModel:
    """Predicts a token from the `length - 1` before it."""

    def __init__(self, length: int, vocabulary: int, orders: Sequence[Order]) -> None:
        self.length, self._V, self._orders = length, vocabulary, orders

    @classmethod
    def train(cls, documents: Iterable[Sequence[int]], length: int, vocabulary: int) -> NgramModel:
        """Count the grams of documents that begin with a BOS, which is never predicted.

        Raises UsageError if there is nothing to count.
        """
        ids, place = _padded(documents, length)
        if not place.any():
            raise UsageError("there is no text to count", "give larger corpora")
        numbers, keys, counts = [], [], []
        number = np.zeros_like(ids)
        for k in range(length):
            ends = np.arange(len(ids))[k:]
            key = np.full(len(ids), -1, np.int64)
            key[ends] = (number[ends - 1] if k else 0) * vocabulary + ids[ends]
            unique, inverse = np.unique(key[k:], return_inverse=True)
            number = np.full(len(ids), -1, np.int64)
            number[k:] = inverse
            numbers.append(number)
            keys.append(unique)
            counts.append(np.bincount(inverse[place[k:]], minlength=len(unique)))
        orders = []
        for k in range(length):
            count = counts[k]
            if k < length - 1:  # different tokens to the left, of grams that are predicted
                longer, first = np.unique(numbers[k + 1][place], return_index=True)
                suffix = numbers[k][place][first]
                count = np.bincount(suffix, minlength=len(keys[k]))
            below = 1 if k == 0 else len(keys[k - 1])
            orders.append(_order(keys[k], count, keys[k] // vocabulary, below))
        return cls(length, vocabulary, orders)

    def logprobs(self, ids: Sequence[int]) -> Floats:
        """Natural log-probability of `ids[1:]`, each given all before it."""
        padded = np.array([ids[0]] * (self.length - 2) + list(ids), np.int64)
        at = np.arange(len(padded) - len(ids) + 1, len(padded))
        p = np.full(len(at), 1.0 / self._V)
        for k, order in enumerate(self._orders):
            history = self._find(padded, at, k)
            seen = history >= 0
            seen[seen] = order.total[history[seen]] > 0
            gram = _look_up(order.keys, history * self._V + padded[at])
            found = np.where(gram >= 0, order.discounted[gram], 0.0)
            total = np.where(seen, order.total[history], 1.0)
            p = np.where(seen, (found + order.spared[history] * p) / total, p)
        return np.log(p)

    def _find(self, padded: Ids, at: Ids, k: int) -> Ids:
        """Numbers of the k tokens before each place, -1 if they were never seen."""
        number = np.zeros(len(at), np.int64)
        for j in range(k):
            key = number * self._V + padded[at - k + j]
            number = np.where(number >= 0, _look_up(self._orders[j].keys, key), -1)
        return number


def _padded(documents: Iterable[Sequence[int]], length: int) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """All ids, every BOS repeated so that no history reaches into the document before; and which
    places are predicted."""
    parts, places = [], []
    for ids in documents:
        pad = max(1, length - 1)
        parts.append(np.array([ids[0]] * (pad - 1) + list(ids), np.int64))
        places.append(np.arange(len(parts[-1])) >= pad)
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return np.concatenate(parts), np.concatenate(places)


def _order(keys: Ids, count: Ids, history: Ids, histories: int) -> Order:
    once, twice = int((count == 1).sum()), int((count == 2).sum())
    discount = once / (once + 2 * twice) if once else 0.5
    discounted = np.maximum(count - discount, 0.0)
    total = np.bincount(history, count, histories).astype(np.float64)
    left = np.bincount(history, count - discounted, histories).astype(np.float64)
    return Order(keys, discounted, total, left)


def _look_up(keys: Ids, wanted: Ids) -> Ids:
    """Places of keys in a sorted table, -1 where they are not."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


class NgramTarget:
    """An n-gram model that answers how likely documents are."""

    likelihoods = True
    context = 1 << 62

    def __init__(self, name: str, model: NgramModel, tokenizer: Tokenizer, made: str) -> None:
        """`made`: differs where vocabulary or training text differ."""
        self.name, self.fingerprint = name, f"{name} {made}"
        self._model, self._tokenizer = model, tokenizer

    def length(self, question: Question) -> int:
        assert isinstance(question, Likelihood)
        return sum(len(ids) for ids, _ in encoded(self._tokenizer, question))

    def answer(self, questions: Iterable[Question]) -> Iterator[tuple[int, Answer]]:
        for i, question in enumerate(questions):
            if not isinstance(question, Likelihood):
                raise UsageError("an n-gram model only tells how likely a text is")
            sums, counts = [], []
            for ids, learned in encoded(self._tokenizer, question):
                marks = np.array(learned[1:])
                sums.append(float(self._model.logprobs(ids)[marks].sum()))
                counts.append(int(marks.sum()))
            yield i, Scored(tuple(sums), tuple(counts))
