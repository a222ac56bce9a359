"""The server that is looked at: asked within a budget, in the words that it understands."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dsv4.config import ModelConfig
from dsv4.encoding.chat import render
from dsv4.encoding.messages import fold_for_template
from dsv4.encoding.prompt import Prompt
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import RequestError, UsageError
from dsv4.evaluation.client import CHARACTERS, Client, Response
from dsv4.evaluation.conformance.probes.budget import Budget
from dsv4.evaluation.conformance.probes.leaks import leak, loops
from dsv4.evaluation.conformance.probes.reply import Reply, joined, whole

CHAT = "chat/completions"
NO_THINKING: Mapping[str, Any] = {
    "thinking": {"type": "disabled"},
    "chat_template_kwargs": {"thinking": False, "enable_thinking": False},
}
"""How servers are told not to think; each reads one of them. llama.cpp's template reads both of the
template's, the parser of its answers the second alone."""
THINKING: Mapping[str, Any] = {
    "thinking": {"type": "enabled"},
    "chat_template_kwargs": {"thinking": True, "enable_thinking": True},
}
LOGPROBS: Mapping[str, Any] = {"logprobs": True, "top_logprobs": 5}
DISTRIBUTION = 20
"""Tokens of which the probability is asked for, where the next token's distribution is."""
TIMEOUT = 120.0
"""Seconds that an answer may take."""
RETRIES = 2

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What an answer was looked through for. `leaked`: what should not be in it."""

    probe: str
    leaked: str | None
    loops: bool


class Service:
    """A model behind a base URL.

    `tokenizer`, `config`: what it is believed to have, if that is known. `understands` and `offers`
    are filled by `meet`, before any other question.
    """

    def __init__(
        self,
        url: str,
        model: str,
        budget: Budget,
        *,
        key: str | None = None,
        tokenizer: Tokenizer | None = None,
        config: ModelConfig | None = None,
        context: int | None = None,
    ) -> None:
        self.client = Client(url, key, retries=RETRIES, timeout=TIMEOUT)
        self.strict = Client(url, key, retries=0, timeout=TIMEOUT)
        """Nothing is sent again: for questions that are to be refused."""
        self.root = Client(url.rstrip("/").removesuffix("/v1"), key, retries=0, timeout=TIMEOUT)
        """What stands beside the API: /metrics, /tokenize."""
        self.model, self.budget = model, budget
        self.tokenizer, self.config, self.context = tokenizer, config, context
        self.plain: dict[str, Any] = {}
        """Fields with which it does not think, as far as it takes them."""
        self.thinks: dict[str, Any] = {}
        """Fields with which it thinks."""
        self.logprobs = False
        self.lanes = 1
        """Questions that may be asked at a time."""
        self.run = f"{random.randrange(10**4, 10**5)}"
        """A number that no earlier run had: what is to be cold is cold."""
        self.without_speculation: Callable[[Messages, int], Reply] | None = None
        """Asks the same model without speculative decoding, where somebody said how."""
        self.probe = ""
        self.seen: list[Seen] = []
        self._salts = itertools.count(time.time_ns())
        self._salting = True
        self._uncached: dict[str, Any] = {"cache_prompt": False}

    # --- asking -----------------------------------------------------------------------------

    def meet(self) -> Reply:
        """Find out which fields the server takes, and whether it tells log-probabilities.

        Raises RequestError if it refuses even the plainest question.
        """
        hello = [{"role": "user", "content": "Hello"}]
        everything = {**NO_THINKING, **LOGPROBS}
        offers = [
            everything,
            {**everything, "logprobs": None, "top_logprobs": None},
            {"thinking": NO_THINKING["thinking"]},
            {"chat_template_kwargs": NO_THINKING["chat_template_kwargs"]},
            {},
        ]
        for offer in offers:
            fields = {key: value for key, value in offer.items() if value is not None}
            reply = self.ask(hello, 1, plain=False, **fields)
            if reply.status < 400:
                self.plain = {key: NO_THINKING[key] for key in fields if key in NO_THINKING}
                self.thinks = {key: THINKING[key] for key in self.plain}
                self.logprobs = bool(reply.logprobs)
                if self.ask(hello, 1, **self._uncached).status >= 400:
                    self._uncached = {}
                self._salting = self.ask(hello, 1, **self.salted()).status < 400
                return reply
        raise RequestError(
            f"{self.client.url} refuses a greeting with status {reply.status}: "
            f"{'; '.join(reply.broken)}",
            "check the name of the model (--served) and the key (--key-file)",
            status=reply.status,
        )

    def body(self, messages: Messages, answer: int, **fields: Any) -> dict[str, Any]:
        """A greedy request that does not think, unless `fields` say otherwise."""
        base = {"model": self.model, "messages": list(messages), "max_tokens": answer}
        return {**base, "temperature": 0, **self.plain, **fields}

    def ask(self, messages: Messages, answer: int, *, plain: bool = True, **fields: Any) -> Reply:
        """The answer, whole. Raises Spent, and RequestError if there is none."""
        body = self.body(messages, answer, **fields)
        if not plain:
            body = {key: body[key] for key in body if key not in self.plain or key in fields}
        return self.send(body)

    def send(self, body: Mapping[str, Any]) -> Reply:
        """As `ask`, of a body as it stands."""
        guessed = self._take(body)
        begin = time.monotonic()
        response = self.client.post(CHAT, body)
        seconds = time.monotonic() - begin
        return self._kept(_reply(response, seconds), guessed)

    def stream(
        self,
        messages: Messages,
        answer: int,
        *,
        began: Callable[[], None] = lambda: None,
        **fields: Any,
    ) -> Reply:
        """The answer, put together from a stream that ends with its usage. `began` is called when
        its first words are there, or there will be none."""
        body = self.body(messages, answer, **fields)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        guessed = self._take(body)
        begin = time.monotonic()
        try:
            with self.client.stream(CHAT, body) as events:
                reply = joined(_noticed(events, began))
        finally:
            began()
        reply.seconds = time.monotonic() - begin
        return self._kept(reply, guessed)

    def dropped(self, messages: Messages, answer: int, **fields: Any) -> bool:
        """Hang up after the first words of an answer; whether there were any. What the answer
        took counts as the tokens it might have had."""
        body = self.body(messages, answer, **fields) | {"stream": True}
        self._take(body)
        with self.strict.stream(CHAT, body) as events:
            for event in events:
                if _speaks(event):
                    return True
        return False

    def together(self, asked: Sequence[Callable[[], Reply]]) -> list[Reply]:
        """All at once."""
        with ThreadPoolExecutor(max(1, len(asked))) as pool:
            return list(pool.map(lambda one: one(), asked))

    def next_tokens(self, messages: Messages, **fields: Any) -> dict[str, float] | None:
        """The likeliest next tokens with their log-probabilities at temperature 1, which are those
        of the model; None where the server does not tell them."""
        if not self.logprobs:
            return None
        wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": DISTRIBUTION, "temperature": 1}
        reply = self.ask(messages, 1, **wanted, **fields)
        if not reply.logprobs:
            return None
        top = reply.logprobs[0].get("top_logprobs") or []
        return {
            json.dumps(one.get("id") or one.get("bytes") or one.get("token")): float(one["logprob"])
            for one in top
            if isinstance(one.get("logprob"), (int, float)) and one["logprob"] > -100
        }

    def salted(self) -> dict[str, Any]:
        """Fields that part what is cached from everything else, where a server reads them."""
        if not self._salting:
            return {}
        salt = f"probe-{next(self._salts)}"
        return {"user_id": salt, "cache_salt": salt}

    def cold(self) -> dict[str, Any]:
        """Fields under which nothing is read from a cache: as `salted`, or for this request alone
        (llama.cpp)."""
        return {**self.salted(), **self._uncached}

    def metric(self, names: Sequence[str]) -> float | None:
        """The sum of a metric over its labels; None if the server does not show it. `names`: what
        servers call it."""
        try:
            text = self.root.text("metrics")
        except RequestError:
            return None
        found = [
            float(line.rsplit(" ", 1)[1])
            for line in (text or "").splitlines()
            if line.startswith(tuple(name + end for name in names for end in (" ", "{")))
        ]
        return sum(found) if found else None

    # --- counting ---------------------------------------------------------------------------

    def count(self, messages: Messages, **options: Any) -> int | None:
        """Tokens of a prompt as our encoder writes it; None without a vocabulary."""
        ids = self.ids(messages, **options)
        return None if ids is None else len(ids)

    def ids(self, messages: Messages, **options: Any) -> list[int] | None:
        """A prompt as our encoder writes it; `options` are those of `encoding.chat.render`."""
        if self.tokenizer is None:
            return None
        return self.tokenizer.encode_prompt(_written(messages, options))

    def written(self, messages: Messages, **options: Any) -> str:
        """The text of a prompt as our encoder writes it."""
        return _written(messages, options).text

    def rendered(self, messages: Messages, **fields: Any) -> str | None:
        """The text of a prompt as the server writes it, where it shows that (llama.cpp does)."""
        try:
            response = self.root.post("apply-template", self.body(messages, 1, **fields))
        except RequestError:
            return None
        found = response.body.get("prompt")
        return found if response.status < 400 and isinstance(found, str) else None

    def _take(self, body: Mapping[str, Any]) -> tuple[int, int]:
        said = json.dumps([body["messages"], body.get("tools")], ensure_ascii=False)
        guessed = len(said) // CHARACTERS, int(body.get("max_tokens") or 0)
        self.budget.take(*guessed)
        return guessed

    def _kept(self, reply: Reply, guessed: tuple[int, int]) -> Reply:
        if reply.status >= 400:
            self.budget.correct(guessed, 0, 0)
            return reply
        prompt, answer = reply.count("prompt_tokens"), reply.count("completion_tokens")
        self.budget.correct(
            guessed,
            guessed[0] if prompt is None else prompt,
            guessed[1] if answer is None else answer,
            reply.cached or 0,
        )
        self.seen.append(Seen(self.probe, leak(reply.content), loops(reply.content)))
        return reply


def _written(messages: Messages, options: Mapping[str, Any]) -> Prompt:
    return render(fold_for_template(messages), **{"thinking": False, **options})


def _reply(response: Response, seconds: float) -> Reply:
    if response.status < 400:
        return whole(response.body, response.status, seconds)
    reason = json.dumps(response.body, ensure_ascii=False)[:300]
    return Reply(response.status, broken=[reason], seconds=seconds)


def _noticed(events: Iterator[str], began: Callable[[], None]) -> Iterator[str]:
    for event in events:
        if _speaks(event):
            began()
        yield event


def _speaks(event: str) -> bool:
    """Whether a chunk has text for the user."""
    return event != "[DONE]" and bool(joined([event]).content)


def find(url: str, served: str | None, key: str | None) -> tuple[str, str, int | None]:
    """The base URL of the API, the model to ask for, and the tokens of its context if the server
    tells.

    Raises UsageError if there are several models, RequestError if there is no server.
    """
    bases = [url.rstrip("/")]
    if not bases[0].endswith("/v1"):
        bases.insert(0, bases[0] + "/v1")
    for base in bases:
        models = _models(Client(base, key, retries=0, timeout=TIMEOUT).text("models"))
        if not models:
            continue
        names = [str(one["id"]) for one in models]
        if served is None and len(names) > 1:
            # Of a server of ours the others are names that clients know.
            version = _object(Client(base.removesuffix("/v1"), key, retries=0).text("version"))
            served = version["model"] if version.get("model") in names else None
        if served is None and len(names) > 1:
            raise UsageError(
                f"{base} serves several models", "--served NAME: one of " + ", ".join(names[:20])
            )
        name = served or names[0]
        return base, name, _context(models[names.index(name)]) if name in names else None
    if served is None:
        raise UsageError(f"{url} lists no models", "name the one to ask with --served")
    return bases[0], served, None


def _models(text: str | None) -> list[dict[str, Any]]:
    listed = _object(text).get("data")
    return [one for one in listed or () if isinstance(one, dict) and one.get("id")]


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _context(model: Mapping[str, Any]) -> int | None:
    """Names that servers have for it."""
    meta = model.get("meta")
    values = [model.get("context_window"), model.get("max_model_len"), model.get("context_length")]
    values.append(meta.get("n_ctx") if isinstance(meta, dict) else None)
    return next((value for value in values if type(value) is int), None)


def apart(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """The largest difference of two distributions, in nats, over the tokens likelier than e^-6
    in either; one that the other lacks counts as if it had e^-8 there. Below that, rounding of
    the released formats alone moves log-probabilities by as much as faults do."""
    floor, lost = -6.0, -8.0
    names = {name for one in (first, second) for name, value in one.items() if value > floor}
    return max(
        (abs(max(first.get(n, lost), lost) - max(second.get(n, lost), lost)) for n in names),
        default=math.inf,
    )
