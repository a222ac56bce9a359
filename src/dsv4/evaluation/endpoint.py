"""Any server with OpenAI's chat completions as a target.

It answers conversations, and texts with a hole where it has the completions endpoint; nobody can
ask it how likely a text is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any

from dsv4.encoding.events import Reply
from dsv4.encoding.messages import Message, ToolCall
from dsv4.errors import RequestError, UsageError
from dsv4.evaluation.client import CHARACTERS, Client
from dsv4.evaluation.question import Answer, Chat, Fill, Likelihood, Question, Said
from dsv4.pricing.price import Tokens
from dsv4.pricing.usage import tokens_of

TOGETHER = 8
"""Requests at a time."""

CONTEXT = 65536 + 4096
"""Tokens that a question and its answer may have, unless somebody says otherwise."""


class Endpoint:
    """A model behind a URL such as http://127.0.0.1:8000/v1.

    `context`: tokens a question and its answer may have. `together`: requests at a time. `plain`:
    it knows only the fields of OpenAI's own API, so it cannot be told whether to think, only how
    much. Passing troubles are retried; a refusal and an answer that is not what the API promises
    raise RequestError. Raises UsageError for what is no URL.
    """

    likelihoods = False

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        context: int = CONTEXT,
        together: int = TOGETHER,
        plain: bool = False,
    ) -> None:
        self._client, self._model = Client(url, key), model
        self._together, self._plain = together, plain
        self.name, self.context = model, context
        self.fingerprint = f"{self._client.url} {model}" + (" plain" if plain else "")

    def length(self, question: Question) -> int:
        if isinstance(question, Chat):
            return sum(len(message.content) for message in question.messages) // CHARACTERS
        assert isinstance(question, Fill)
        return len(question.prefix + (question.suffix or "")) // CHARACTERS

    def answer(self, questions: Iterable[Question]) -> Iterator[tuple[int, Answer]]:
        """As `Target.answer`. What was asked when one request fails, and may be paid for, is
        waited for before the failure is raised."""
        arrived: SimpleQueue[tuple[int, Said | BaseException]] = SimpleQueue()
        waiting = enumerate(questions)
        running, failure = 0, None
        while True:
            while failure is None and running < self._together and (job := next(waiting, None)):
                # Daemons: one that waits for a server does not keep the program from ending.
                threading.Thread(target=self._work, args=(*job, arrived), daemon=True).start()
                running += 1
            if not running:
                break
            number, answer = arrived.get()
            running -= 1
            if isinstance(answer, Said):
                yield number, answer
            else:
                failure = failure or answer
                self._client.settle()
        if failure is not None:
            raise failure

    def _work(
        self,
        number: int,
        question: Question,
        arrived: SimpleQueue[tuple[int, Said | BaseException]],
    ) -> None:
        try:
            if isinstance(question, Likelihood):
                raise UsageError("an endpoint does not tell how likely a text is")
            arrived.put((number, self._ask(question)))
        except BaseException as error:
            arrived.put((number, error))

    def _ask(self, question: Chat | Fill) -> Said:
        sampling = question.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": question.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if isinstance(question, Fill):
            body |= {"prompt": question.prefix, "suffix": question.suffix}
            return _completed(self._post("completions", body))
        body |= {"messages": [_message(message) for message in question.messages]}
        if self._plain:
            body["max_completion_tokens"] = body.pop("max_tokens")
        else:
            body["thinking"] = {"type": "disabled" if question.effort == "off" else "enabled"}
        if question.effort != "off":
            body["reasoning_effort"] = question.effort
        if question.tools:
            body["tools"] = [{"type": "function", "function": tool} for tool in question.tools]
        return _answered(self._post("chat/completions", body))

    def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        response = self._client.post(path, body)
        if response.status >= 400:
            reason = json.dumps(response.body, ensure_ascii=False)[:300]
            raise RequestError(
                f"{self._client.url}/{path} answered {response.status}: {reason}",
                status=response.status,
            )
        return response.body


def _message(message: Message) -> dict[str, Any]:
    if message.role == "assistant":
        calls = tuple(
            ToolCall(call.name, _text(call.arguments), call.id) for call in message.tool_calls
        )
        return Reply(message.reasoning, message.content, calls).message()
    said = {"role": message.role, "content": message.content}
    return said | ({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})


def _text(arguments: str | Mapping[str, Any] | None) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})


def _answered(response: Mapping[str, Any]) -> Said:
    try:
        choice = response["choices"][0]
        message = choice["message"]
        calls = tuple(
            ToolCall(call["function"]["name"], call["function"]["arguments"], call.get("id"))
            for call in message.get("tool_calls") or ()
        )
        reply = Reply(message.get("reasoning_content"), message.get("content") or "", calls)
        finished = choice["finish_reason"] in ("stop", "tool_calls")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _strange("chat completion", response) from error
    shown = (reply.reasoning or "") + reply.content
    shown += "".join(f"\n{call.name}({call.arguments})" for call in calls)
    return _said(shown, reply, finished, response)


def _completed(response: Mapping[str, Any]) -> Said:
    try:
        choice = response["choices"][0]
        text, finished = choice["text"], choice["finish_reason"] == "stop"
    except (KeyError, IndexError, TypeError) as error:
        raise _strange("completion", response) from error
    return _said(text, Reply(None, text), finished, response)


def _strange(wanted: str, response: object) -> RequestError:
    return RequestError(f"the endpoint's answer is no {wanted}: {str(response)[:300]}", status=502)


def _said(text: str, reply: Reply, finished: bool, response: Mapping[str, Any]) -> Said:
    """With the tokens that the server counted, if it did."""
    usage = response.get("usage")
    try:
        tokens = tokens_of(usage) if isinstance(usage, dict) else Tokens()
    except UsageError:
        tokens = Tokens()
    return Said(text, reply, finished, tokens.output, tokens.hit, tokens.miss)
