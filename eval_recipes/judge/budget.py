"""Calls and tokens that may be used, counted before they are."""

from __future__ import annotations

import threading

from eval_recipes.judge.errors import BudgetExceeded


class Budget:
    """
    Counts calls and tokens; safe to use from several threads.

    A request reserves its expected tokens before it is sent, so that requests under way
    at once cannot exceed the limit together.
    """

    def __init__(self, max_calls: int | None, max_tokens: int | None) -> None:
        self.max_calls = max_calls
        self.max_tokens = max_tokens
        self.calls = 0
        self.tokens = 0
        self._reserved = 0
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> None:
        """
        Count one call and set tokens aside for it.

        Raises:
            BudgetExceeded: if either limit would be exceeded; nothing is counted then.
        """
        with self._lock:
            expected = self.tokens + self._reserved + tokens
            calls_left = self.max_calls is None or self.calls < self.max_calls
            tokens_left = self.max_tokens is None or expected <= self.max_tokens
            if not (calls_left and tokens_left):
                raise BudgetExceeded(
                    f"The judge's budget is used up ({self._described(tokens)}). Replies so "
                    "far are kept: the same command with a larger budget goes on from there."
                )
            self.calls += 1
            self._reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Replace what was set aside by what was used."""
        with self._lock:
            self._reserved -= reserved
            self.tokens += used

    def _described(self, tokens: int) -> str:
        calls = f"{self.calls} of {self.max_calls} calls"
        used = f"{self.tokens} of {self.max_tokens} tokens, {tokens} for the next call"
        limits = ((self.max_calls, calls), (self.max_tokens, used))
        return "; ".join(text for limit, text in limits if limit is not None)
