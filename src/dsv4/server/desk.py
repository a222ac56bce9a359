"""What all handlers share: who may ask, what is under way, how answers go out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dsv4.chat.answer import Shown, Usage
from dsv4.chat.engine import Engine
from dsv4.chat.prepared import Prepared
from dsv4.chat.request import Completion
from dsv4.chat.request import Request as Asked
from dsv4.engine.service import RETRY_AFTER, stopping
from dsv4.errors import RequestError
from dsv4.server import body
from dsv4.server.accounts import Account, Accounts
from dsv4.server.envelope import Writer
from dsv4.server.failure import status_of
from dsv4.server.job import Begun, Job
from dsv4.server.metrics import Metrics
from dsv4.server.names import Names
from dsv4.server.settings import Settings
from dsv4.server.sse import Json
from dsv4.server.workers import Workers
from dsv4.version import __version__

logger = logging.getLogger("dsv4.server")

Body = TypeVar("Body", bound=body.Lenient)

READERS, MOST_READ = 4, 2048
COMPILERS, MOST_COMPILED = 2, 256


class _EventStream(StreamingResponse):
    """A stream whose job ends with it, also when the client goes before its first byte."""

    def __init__(self, job: Job, texts: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(texts, media_type="text/event-stream", headers=headers)
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.close()


class Desk:
    """One per application. Belongs to the event loop."""

    def __init__(self, engine: Engine, accounts: Accounts, settings: Settings) -> None:
        self.engine = engine
        self.accounts = accounts
        self.settings = settings
        self.metrics = Metrics(engine)
        self.readers = Workers("reader", READERS, MOST_READ)
        """Parse bodies and write prompts."""
        self.compilers = Workers("compiler", COMPILERS, MOST_COMPILED)
        """Prepare requests with tools or formats, which may take seconds: nobody else waits."""
        model = engine.model
        self.names = Names(model.name, engine.context)
        self.fingerprint = f"dsv4-{__version__}-{model.numerics}"
        self.draining = False
        """Whether new requests are refused, as the server is about to stop."""
        self._jobs: dict[Job, str] = {}
        self._of: Counter[str] = Counter()

    @property
    def jobs(self) -> int:
        """Requests that are under way."""
        return len(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether any request is under way."""
        return bool(self._jobs)

    def account(self, request: Request) -> Account:
        """Who asks the model. Raises RequestError: 401, 402, 429."""
        return self.accounts.identify(key_of(request))

    def looking(self, request: Request) -> Account:
        """Who asks what costs nothing. Raises RequestError: 401."""
        return self.accounts.find(key_of(request))

    async def read(self, request: Request, kind: type[Body]) -> Body:
        """The body of a request. Raises RequestError."""
        return await body.read(request, kind, self.settings, self.readers)

    def user(self, account: Account, named: str) -> str:
        """Whose request it is, to the engine: users of different accounts are never the same."""
        return f"{account.name}/{named}" if account.name or named else ""

    async def respond(
        self, request: Request, account: Account, prepared: Prepared, writer: Writer, stream: bool
    ) -> Response:
        """Start a request and answer it. Raises RequestError: 429, 503, and without `stream`
        what goes wrong on the way."""
        job = self._start(account, prepared)
        if stream:
            return _EventStream(job, self._stream(job, writer))
        return Json(writer.whole(await self._collect(job, request)))

    async def prepare(self, account: Account, wanted: Asked | Completion) -> Prepared:
        """A request as ids. Raises RequestError, also (429) when too many are prepared."""
        wanted = replace(wanted, user=self.user(account, wanted.user))
        if isinstance(wanted, Completion):
            return await self.readers.run(self.engine.prepare_completion, wanted)
        workers = self.compilers if wanted.tools or wanted.format is not None else self.readers
        return await workers.run(self.engine.prepare, wanted)

    def close(self) -> None:
        """Nothing more is to be read."""
        self.readers.close()
        self.compilers.close()

    def stop(self) -> None:
        """End every request that is under way with an error."""
        for job in list(self._jobs):
            job.fail(stopping())

    def _start(self, account: Account, prepared: Prepared) -> Job:
        if self.draining:
            raise stopping()
        most = self.settings.per_key
        if most is not None and self._of[account.name] >= most:
            raise RequestError(
                f"{most} requests of this key are under way; try again in {RETRY_AFTER}s",
                status=429,
                code="rate_limit_exceeded",
            )
        waiting = sum(job.waiting for job in self._jobs)
        # One that waits alone may be as long as it likes.
        if waiting and waiting + len(prepared.ids) > self.settings.queue_tokens:
            raise RequestError(
                f"prompts of {waiting} tokens are waiting already; try again in {RETRY_AFTER}s",
                status=429,
                code="rate_limit_exceeded",
            )

        def ended(job: Job, usage: Usage) -> None:
            del self._jobs[job]
            self._of[account.name] -= 1
            if not self._of[account.name]:
                del self._of[account.name]
            account.charge(self.engine.model.name, usage)

        job = Job(self.engine, prepared, self.metrics, ended)
        self._jobs[job] = account.name
        self._of[account.name] += 1
        return job

    def _events(self, job: Job) -> AsyncGenerator[Shown | Begun | None]:
        return job.events(self.settings.keep_alive_seconds, self.settings.queue_seconds)

    async def _collect(self, job: Job, request: Request) -> list[Shown]:
        """All events of a job, which ends when the client goes."""

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            job.fail(RequestError("the client left", status=499))

        watcher = asyncio.create_task(watch())
        try:
            return [
                event
                async for event in self._events(job)
                if event is not None and not isinstance(event, Begun)
            ]
        finally:
            watcher.cancel()
            job.close()

    async def _stream(self, job: Job, writer: Writer) -> AsyncIterator[str]:
        """What is sent of a job. When the client goes, this generator is closed, and that ends
        the job. An error ends the stream in place of its proper end."""
        try:
            for text in writer.first():
                yield text
            async with contextlib.aclosing(self._events(job)) as events:
                async for event in events:
                    if event is None:
                        yield writer.waiting()
                    elif isinstance(event, Begun):
                        for text in writer.begun(event.cached):
                            yield text
                    else:
                        for text in writer.pieces(event):
                            yield text
        except Exception as error:
            if status_of(error) == 500:
                logger.exception("an answer failed")
            for text in writer.failed(error):
                yield text


def key_of(request: Request) -> str | None:
    """The key a request brings: a bearer token or x-api-key."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key")
