"""Usage objects of the APIs as tokens with a price."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dsv4.errors import UsageError
from dsv4.pricing.price import Tokens


def tokens_of(usage: Mapping[str, Any]) -> Tokens:
    """The tokens of a usage object as DeepSeek, OpenAI (both its APIs) or Anthropic write it.

    Raises UsageError if it holds no counts.
    """
    if "prompt_tokens" in usage or "prompt_cache_miss_tokens" in usage:
        details = usage.get("prompt_tokens_details")
        hit = _count(usage, "prompt_cache_hit_tokens", _count(details, "cached_tokens"))
        miss = _count(usage, "prompt_cache_miss_tokens", _count(usage, "prompt_tokens") - hit)
        return _sound(Tokens(hit, miss, _count(usage, "completion_tokens")))
    if "input_tokens" in usage:
        read, output = _count(usage, "input_tokens"), _count(usage, "output_tokens")
        if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
            hit = _count(usage, "cache_read_input_tokens")
            return _sound(Tokens(hit, read + _count(usage, "cache_creation_input_tokens"), output))
        hit = _count(usage.get("input_tokens_details"), "cached_tokens")
        return _sound(Tokens(hit, read - hit, output))
    raise UsageError(
        "there are no token counts", "a usage object has prompt_tokens or input_tokens"
    )


def time_of(entry: Mapping[str, Any]) -> datetime | None:
    """When a request was made: its `created`, `created_at` or `time`, in seconds or ISO 8601.

    Raises UsageError if that is no time.
    """
    for key in ("created", "created_at", "time"):
        value = entry.get(key)
        if value is None:
            continue
        try:
            if isinstance(value, str):
                when = datetime.fromisoformat(value)
                return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)
            return datetime.fromtimestamp(value, UTC)
        except (TypeError, ValueError, OverflowError, OSError) as error:
            raise UsageError(f"{key} = {value!r} is no time", "seconds or ISO 8601") from error
    return None


def _count(values: Any, key: str, default: int = 0) -> int:
    value = values.get(key) if isinstance(values, Mapping) else None
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise UsageError(f"{key} = {value!r} is no count of tokens")
    return value


def _sound(tokens: Tokens) -> Tokens:
    if tokens.miss < 0:
        raise UsageError("there are more cached tokens than prompt tokens")
    return tokens
