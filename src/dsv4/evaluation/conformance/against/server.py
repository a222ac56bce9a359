"""Predictions of a server, through its log-probabilities.

Teacher-forced where the server tells those of a prompt (`echo`); otherwise it is asked for the next
token after prefixes, at the lengths at which implementations go wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dsv4.config import ModelConfig
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import RequestError
from dsv4.evaluation.client import Client
from dsv4.evaluation.conformance import lengths
from dsv4.evaluation.conformance.against.answers import (
    Row,
    Vocabulary,
    completion_rows,
    native_rows,
)
from dsv4.evaluation.conformance.against.predictions import Predictions, likeliest

TOP = (20, 5)
"""Alternatives that are asked for: as many as most servers give, or as OpenAI's API does."""
NATIVE_TOP = 100
SEEDS = 8
"""Times a prefix is asked for whose next token was one that the server does not report."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Form:
    """One way to ask: an endpoint, a prompt as ids or as text, and so many alternatives."""

    native: bool
    as_ids: bool
    top: int

    def __str__(self) -> str:
        endpoint = "/completion" if self.native else "completions"
        return f"{endpoint}, prompts as {'ids' if self.as_ids else 'text'}, {self.top} alternatives"


class Server:
    """A model behind a URL. Without a `tokenizer` it has to take and to give ids.

    Raises UsageError for what is no URL.
    """

    def __init__(
        self,
        url: str,
        model: str,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        key: str | None = None,
    ) -> None:
        url = url.rstrip("/")
        base = url if urlsplit(url).path else f"{url}/v1"
        self._client = Client(base, key, retries=2)
        # What a server does not know it may call an error of its own: not worth waiting for.
        self._trying = Client(base, key, retries=0)
        self._native = Client(base.removesuffix("/v1"), key, retries=2)
        self._model, self._config, self._tokenizer = model, config, tokenizer
        self._vocabulary = Vocabulary(tokenizer, config.vocab_size)
        self._spelled_bos = False

    def predict(self, ids: Sequence[int], progress: Progress) -> Predictions:
        """What it predicts after prefixes of `ids`, which begin with the beginning of sequence.

        Raises RequestError if it gives no log-probabilities, or reads other tokens than these.
        """
        url = self._client.url
        forced = self._forced(ids)
        if forced is not None:
            form, rows = forced
            return likeliest(url, f"teacher-forced: {form}", ids, rows)
        sizes = lengths.prefixes(self._config, len(ids))
        form = self._working_form(ids[: sizes[0]])
        rows = {}
        for number, size in enumerate(sizes):
            row = self._next(form, ids[:size])
            if row is not None:
                rows[size - 1] = row
            progress(number + 1, len(sizes))
        if not rows:
            raise RequestError(f"{url} tells nothing about the next token", status=502)
        how = f"next token after {len(rows)} of {len(sizes)} prefixes: {form}"
        return likeliest(url, how, ids, rows)

    def _forced(self, ids: Sequence[int]) -> tuple[_Form, dict[int, Row]] | None:
        """What was likely after each token of the prompt, from a server that tells that."""
        for form in self._forms():
            if form.native:
                continue
            body = self._body(form, ids, 0) | {"echo": True}
            response = self._trying.post("completions", body)
            if response.status >= 400:
                continue
            rows = completion_rows(response.body, self._vocabulary)
            # One for every token of the prompt, of the first of which nothing can be said, and one
            # for the token that was drawn.
            if len(rows) <= len(ids) or None in rows[2:]:
                continue
            if self._check_count(response.body, ids):
                found = rows[-len(ids) :]
                return form, {i: row for i, row in enumerate(found) if row is not None}
        return None

    def _working_form(self, ids: Sequence[int]) -> _Form:
        """The first form in which the server says what comes next."""
        refusals = []
        for form in self._forms():
            try:
                if self._next(form, ids, self._trying) is not None:
                    return form
                refusals.append(f"{form}: no log-probabilities")
            except RequestError as error:
                if error.code == COUNT:
                    raise
                refusals.append(f"{form}: {error}")
        raise RequestError(
            f"{self._client.url} gives no log-probabilities ({'; '.join(refusals)})",
            "is its model called so (--served), and are log-probabilities switched on?",
            status=502,
        )

    def _forms(self) -> list[_Form]:
        ways = (True, False) if self._tokenizer is not None else (True,)
        asked = [_Form(False, as_ids, top) for as_ids in ways for top in TOP]
        return [*asked, _Form(True, True, NATIVE_TOP)]

    def _next(self, form: _Form, ids: Sequence[int], client: Client | None = None) -> Row | None:
        """What is likely after `ids`; None if the server does not say.

        Servers may not report control tokens: then another seed may draw another token.
        """
        for seed in range(SEEDS):
            if form.native:
                response = self._native.post("completion", self._native_body(form, ids))
            else:
                asking = client or self._client
                response = asking.post("completions", self._body(form, ids, seed))
            if response.status >= 400:
                raise RequestError(
                    f"{response.status}: {str(response.body)[:200]}", status=response.status
                )
            read = native_rows if form.native else completion_rows
            rows = read(response.body, self._vocabulary)
            if not self._check_count(response.body, ids):
                return self._next(form, ids, client)
            if rows and rows[-1]:
                return rows[-1]
        return None

    def _body(self, form: _Form, ids: Sequence[int], seed: int) -> dict[str, Any]:
        # As it is: other settings change what some servers report.
        return {
            "model": self._model,
            "prompt": list(ids) if form.as_ids else self._text(ids),
            "max_tokens": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": seed,
            "logprobs": form.top,
            "return_tokens_as_token_ids": True,
        }

    def _native_body(self, form: _Form, ids: Sequence[int]) -> dict[str, Any]:
        return {
            "prompt": list(ids),
            "n_predict": 1,
            "temperature": 1.0,
            "n_probs": form.top,
            "post_sampling_probs": False,
            "cache_prompt": False,
        }

    def _text(self, ids: Sequence[int]) -> str:
        """The text of ids; the server puts the beginning of sequence in front, unless it does not
        and it has to be spelled."""
        assert self._tokenizer is not None
        return self._tokenizer.decode(ids if self._spelled_bos else ids[1:])

    def _check_count(self, body: Mapping[str, Any], ids: Sequence[int]) -> bool:
        """Whether the server read as many tokens as were meant, if it tells. If it put no beginning
        of sequence in front, it is spelled from now on."""
        usage = body.get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if count is None:
            count = body.get("tokens_evaluated")
        if not isinstance(count, int) or count == len(ids):
            return True
        if count == len(ids) - 1 and not self._spelled_bos:
            self._spelled_bos = True
            return False
        raise RequestError(
            f"{self._client.url} reads {count} tokens where there are {len(ids)}",
            "its tokenizer, or what it puts in front of a prompt, is another",
            status=502,
            code=COUNT,
        )


COUNT = "other_tokens"
"""The code of a RequestError for a server that counts other tokens."""
