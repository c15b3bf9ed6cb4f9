"""Failures of a judge: of one attempt, and of a request."""

from __future__ import annotations

from collections.abc import Mapping


class JudgeError(RuntimeError):
    """No reply; the message says why and never holds the key."""


class RequestRefused(JudgeError):
    """The server refuses this request whenever it is sent; others may succeed."""


class JudgeUnavailable(JudgeError):
    """The server gave no usable reply after every attempt; it may at another time."""


class BudgetExceeded(JudgeError):
    """The next request could exceed the budget; replies so far are in the cache."""


class AttemptError(Exception):
    """
    One attempt brought no reply; the message may repeat the key.

    Attributes:
        sent: whether the request left, and so may have to be paid for.
    """

    sent = False


class CalledOff(AttemptError):
    """The attempt was ended because nobody waits for the reply any more."""


class Unreachable(AttemptError):
    """No connection, or it broke."""


class DeadlinePassed(AttemptError):
    """The reply was not there in time."""


class GarbledReply(AttemptError):
    """
    The server answered with something that is no chat completion.

    Attributes:
        tokens: what the server says that it took, 0 if it does not.
    """

    def __init__(self, message: str, tokens: int = 0) -> None:
        super().__init__(message)
        self.tokens = tokens


class ReplyTooLong(AttemptError):
    """The reply has more bytes than one to this request can have."""


class Redirected(AttemptError):
    """The server names another address; the prompts must not follow."""


class StatusError(AttemptError):
    """
    The server answered with an error.

    Attributes:
        status: HTTP status.
        code: the server's own name for the error, "" if it gives none.
        headers: of the answer, names in lower case.
    """

    def __init__(
        self, status: int, message: str, code: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(f"HTTP {status}: {message}" if message else f"HTTP {status}")
        self.status = status
        self.code = code
        self.headers = headers
