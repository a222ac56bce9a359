"""The body of a text completion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Completion
from dsv4.errors import RequestError
from dsv4.server.body import first_given
from dsv4.server.sampling import Count, SamplingFields, StopFields, StreamOptions, TopLogprobs


class CompletionBody(SamplingFields, StopFields):
    """POST /completions: text to continue, or with `suffix` what belongs in between."""

    model: str
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    suffix: str | None = None
    max_tokens: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    logprobs: TopLogprobs | None = None
    n: int | None = None
    best_of: int | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    @property
    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def request(self, defaults: Defaults) -> Completion:
        """What the engine has to do. Raises RequestError for what this server cannot."""
        for field, value in (("n", self.n), ("best_of", self.best_of)):
            if value not in (None, 1):
                raise RequestError(f"{field}: this server supports 1 only", param=field)
        if self.suffix is not None and self.echo:
            raise RequestError("echo and suffix do not go together", param="echo")
        return Completion(
            prompt=self.text,
            suffix=self.suffix,
            sampling=self.sampling(defaults),
            max_tokens=first_given(self.max_tokens, defaults.max_tokens),
            stop=tuple(self.stop or ()),
            echo=bool(self.echo),
            logprobs=self.logprobs,
            user=self.user or "",
        )
