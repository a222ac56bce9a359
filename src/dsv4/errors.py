"""One small tree of exceptions for callers' mistakes.

Anything raised from here is meant to be read by a person: the message says what is wrong
(one line, or a short list) and `hint` how to mend it. Our own bugs are `assert`s instead.
"""


class Dsv4Error(Exception):
    """Base of every error dsv4 raises on purpose.

    `hint`: one line telling how to mend the problem, or None.
    `exit_code`: what a command line tool returns for it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(Dsv4Error):
    """A command or function was called with arguments that do not fit together."""

    exit_code = 2


class ConfigError(Dsv4Error):
    """A model configuration has an unknown, missing or contradictory key."""

    exit_code = 3


class CheckpointError(Dsv4Error):
    """A weight folder is damaged, incomplete or of another model."""

    exit_code = 4


class EncodingError(Dsv4Error):
    """A conversation or a text can not be turned into ids, or ids into text."""

    exit_code = 5


class ParseError(EncodingError):
    """Generated text does not follow the V4 grammar (strict parser only)."""


class StateError(Dsv4Error):
    """A decoding state was asked for something it no longer holds."""

    exit_code = 6


class DataError(Dsv4Error):
    """A training corpus is missing, empty or malformed."""

    exit_code = 7


class TrainingError(Dsv4Error):
    """A run can not go on: its loss is not a number any more."""

    exit_code = 9


class RequestError(Dsv4Error):
    """An API request cannot be served; `status` is its HTTP status, `param` the offending
    field, `code` what programs tell it by, `retry_after` the seconds after which it may be asked
    again (None: soon, if the status says so)."""

    exit_code = 8

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        status: int = 400,
        param: str | None = None,
        code: str = "invalid_request_error",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after
