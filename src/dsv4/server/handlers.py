"""The handlers: each reads a body, asks the engine, and answers in its dialect."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from dsv4.server.chat_answer import ChatAnswer
from dsv4.server.chat_body import ChatBody
from dsv4.server.completion_answer import CompletionAnswer
from dsv4.server.completion_body import CompletionBody
from dsv4.server.desk import Desk
from dsv4.server.messages_answer import MessagesAnswer
from dsv4.server.messages_body import CountBody, MessagesBody
from dsv4.server.responses_answer import ResponsesAnswer
from dsv4.server.responses_body import ResponsesBody
from dsv4.server.sse import Json
from dsv4.server.tokens import DetokenizeBody, TokenizeBody


class Handlers:
    """What clients ask of the model. Handlers never touch it: they start a job and send what
    comes back."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._engine = desk.engine
        self._defaults = desk.engine.model.defaults

    async def chat(self, request: Request) -> Response:
        account = self._desk.account(request)
        asked = await self._desk.read(request, ChatBody)
        self._desk.names.check(asked.model)
        prepared = await self._desk.prepare(account, asked.request(self._defaults))
        writer = ChatAnswer(
            asked.model,
            self._desk.fingerprint,
            thinking=prepared.opens_thinking,
            counted=asked.include_usage,
            logprobs=bool(asked.logprobs),
        )
        return await self._desk.respond(request, account, prepared, writer, bool(asked.stream))

    async def completion(self, request: Request) -> Response:
        account = self._desk.account(request)
        asked = await self._desk.read(request, CompletionBody)
        self._desk.names.check(asked.model)
        prepared = await self._desk.prepare(account, asked.request(self._defaults))
        writer = CompletionAnswer(
            asked.model,
            self._desk.fingerprint,
            counted=asked.include_usage,
            logprobs=asked.logprobs is not None,
        )
        return await self._desk.respond(request, account, prepared, writer, bool(asked.stream))

    async def response(self, request: Request) -> Response:
        account = self._desk.account(request)
        asked = await self._desk.read(request, ResponsesBody)
        self._desk.names.check(asked.model)
        wanted = asked.request(self._defaults)
        prepared = await self._desk.prepare(account, wanted)
        writer = ResponsesAnswer(
            asked.model,
            asked.echo(self._defaults),
            custom=asked.custom,
            logprobs=wanted.logprobs is not None,
        )
        return await self._desk.respond(request, account, prepared, writer, bool(asked.stream))

    async def messages(self, request: Request) -> Response:
        account = self._desk.account(request)
        asked = await self._desk.read(request, MessagesBody)
        self._desk.names.check_claude(asked.model)
        prepared = await self._desk.prepare(account, asked.asked(self._defaults))
        writer = MessagesAnswer(asked.model, len(prepared.ids))
        return await self._desk.respond(request, account, prepared, writer, bool(asked.stream))

    async def count_tokens(self, request: Request) -> Response:
        account = self._desk.looking(request)
        asked = await self._desk.read(request, CountBody)
        self._desk.names.check_claude(asked.model)
        prepared = await self._desk.prepare(account, asked.request(self._defaults))
        return Json({"input_tokens": len(prepared.ids)})

    async def tokenize(self, request: Request) -> Response:
        account = self._desk.looking(request)
        asked = await self._desk.read(request, TokenizeBody)
        if asked.model is not None:
            self._desk.names.check(asked.model)
        if asked.messages is not None:
            chat = ChatBody(model=self._desk.names.all[0], messages=asked.messages)
            ids = list((await self._desk.prepare(account, chat.request(self._defaults))).ids)
        else:
            ids = await self._desk.readers.run(asked.ids, self._engine.model.tokenizer)
        tokenizer = self._engine.model.tokenizer
        answer: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": self._engine.context,
            "tokens": ids,
        }
        if asked.return_token_strs:
            answer["token_strs"] = [tokenizer.token(index) for index in ids]
        return Json(answer)

    async def detokenize(self, request: Request) -> Response:
        self._desk.looking(request)
        asked = await self._desk.read(request, DetokenizeBody)
        if asked.model is not None:
            self._desk.names.check(asked.model)
        tokenizer = self._engine.model.tokenizer
        return Json({"prompt": await self._desk.readers.run(tokenizer.decode, asked.tokens)})
