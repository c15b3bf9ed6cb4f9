"""Failures of attempts and requests, and waits before further attempts."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum

from eval_recipes.chat.options import JudgeConfig


class JudgeError(RuntimeError):
    """No reply; the message says why and never holds the key."""


class RequestRefused(JudgeError):
    """The server refuses this request for good; others may succeed."""


class JudgeUnavailable(JudgeError):
    """No attempt brought a usable reply; the server may give one at another time."""


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
    """The attempt was ended because the reply is no longer wanted."""


class Unreachable(AttemptError):
    """There was no connection, or it broke."""


class DeadlinePassed(AttemptError):
    """The reply was not there in time."""


class GarbledReply(AttemptError):
    """
    The server's answer is no chat completion.

    Attributes:
        tokens: tokens used as counted by the server, 0 if it does not count.
    """

    def __init__(self, message: str, tokens: int = 0) -> None:
        super().__init__(message)
        self.tokens = tokens


class ReplyTooLong(AttemptError):
    """The reply has more bytes than any reply to this request can have."""


class Redirected(AttemptError):
    """The server names another address; the prompts must not follow."""


class StatusError(AttemptError):
    """
    The server answered with an error.

    Attributes:
        status: HTTP status.
        code: the server's own name for the error, or "".
        headers: of the answer, names in lower case.
    """

    def __init__(
        self, status: int, message: str, code: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(f"HTTP {status}: {message}" if message else f"HTTP {status}")
        self.status = status
        self.code = code
        self.headers = headers


class Verdict(Enum):
    """Consequence of a failure for the request and for others."""

    AGAIN = "worth another attempt"
    LAST = "not worth another attempt now"
    REFUSED = "this request is refused for good"
    FATAL = "no request will succeed"


def verdict_on(error: AttemptError) -> Verdict:
    """
    Return the consequence of a failure.

    429 means wait, except where the account has no money left; 403 is how some servers
    moderate one request; 404 is an unknown model. A server whose reply is too long ignores the
    given limit, and each attempt would cost as much.
    """
    if isinstance(error, Redirected):
        return Verdict.FATAL
    if isinstance(error, ReplyTooLong):
        return Verdict.LAST
    if not isinstance(error, StatusError):
        return Verdict.AGAIN
    status = error.status
    if status == 401 or status == 404 or error.code == "insufficient_quota":
        return Verdict.FATAL
    if status in (408, 409, 425, 429) or status >= 500:
        return Verdict.AGAIN
    return Verdict.REFUSED


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float:
    """
    Return the seconds a server asks to wait, 0 if it does not.

    ``Retry-After`` holds seconds or an HTTP date (RFC 9110, 10.2.3);
    ``Retry-After-Ms`` is OpenAI's own.

    >>> retry_after({"retry-after": "2"})
    2.0
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return max(0.0, seconds)
    try:
        until = parsedate_to_datetime(text or "").timestamp()
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, until - (time.time() if now is None else now))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    # "nan" and "inf" are numbers to Python
    return value if 0 <= value < 1e9 else None


def backoff(config: JudgeConfig, key: str, attempt: int) -> float:
    """
    Return the wait after failed attempt ``attempt`` (from 1), in seconds.

    Between half and all of ``backoff_seconds * 2^(attempt - 1)``, capped; drawn from a seed,
    the request and the attempt, so that requests are not repeated in step.
    """
    longest = min(config.backoff_seconds * 2 ** (attempt - 1), config.max_wait_seconds)
    draw = random.Random(f"{config.seed}/{key}/{attempt}").random()
    return longest * (0.5 + 0.5 * draw)
