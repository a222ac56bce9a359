"""Bodies of requests about tokens, as vLLM has them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.server.body import Lenient
from dsv4.server.sampling import ChatMessage


class TokenizeBody(Lenient):
    """POST /tokenize: of a text, or of messages as the model would read them."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """Ids of the prompt, which begins a document unless `add_special_tokens` is false."""
        assert self.prompt is not None
        begin = [tokenizer.bos_id] if self.add_special_tokens else []
        return begin + tokenizer.encode(self.prompt)


class DetokenizeBody(Lenient):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]
