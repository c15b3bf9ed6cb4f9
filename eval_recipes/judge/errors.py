"""What can go wrong with a judge, by what the caller does about it."""

from __future__ import annotations


class JudgeError(RuntimeError):
    """No reply; the message says why and never holds the key."""


class RequestRefused(JudgeError):
    """The server refuses this request whenever it is sent; others may succeed."""


class JudgeUnavailable(JudgeError):
    """The server gave no usable reply after every attempt; it may at another time."""


class BudgetExceeded(JudgeError):
    """The next request could exceed the budget; replies so far are in the cache."""
