"""The budget of calls and tokens, reserved before each request."""

from __future__ import annotations

import math
import threading

from eval_recipes.chat.errors import BudgetExceeded


class Budget:
    """
    Counts calls and tokens; safe to use from several threads.

    A request reserves the most tokens it can use before it is sent, so that simultaneous
    requests cannot exceed the limit together. A request that does not fit waits until others
    have ended, since they mostly use less. The limit holds as long as no request uses more than
    it reserved; once one has, later requests reserve as many times more.
    """

    def __init__(self, max_calls: int | None, max_tokens: int | None) -> None:
        self.max_calls = max_calls
        self.max_tokens = max_tokens
        self.calls = 0
        self.tokens = 0
        self._reserved = 0
        self._excess = 1.0
        self._changed = threading.Condition()

    def reserve(self, tokens: int) -> int:
        """
        Count one call and return the number of tokens reserved for it.

        Args:
            tokens: the most that the request should use.

        Raises:
            BudgetExceeded: if either limit would be exceeded; nothing is counted then.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._fits(tokens) or not self._reserved or not self._calls_left
            )
            if not (self._calls_left and self._fits(tokens)):
                raise BudgetExceeded(
                    f"The judge's budget is used up ({self._described(tokens)}). Replies so "
                    "far are kept: the same command with a larger budget goes on from there."
                )
            reserved = self._scaled(tokens)
            self.calls += 1
            self._reserved += reserved
            return reserved

    def settle(self, tokens: int, reserved: int, used: int) -> None:
        """Replace ``reserved``, the result of ``reserve(tokens)``, by the tokens used."""
        with self._changed:
            self._reserved -= reserved
            self.tokens += used
            self._excess = max(self._excess, used / tokens)
            self._changed.notify_all()

    @property
    def _calls_left(self) -> bool:
        return self.max_calls is None or self.calls < self.max_calls

    def _fits(self, tokens: int) -> bool:
        expected = self.tokens + self._reserved + self._scaled(tokens)
        return self.max_tokens is None or expected <= self.max_tokens

    def _scaled(self, tokens: int) -> int:
        return math.ceil(tokens * self._excess)

    def _described(self, tokens: int) -> str:
        calls = f"{self.calls} of {self.max_calls} calls"
        used = (
            f"{self.tokens} of {self.max_tokens} tokens, up to {self._scaled(tokens)} for "
            "the next call"
        )
        limits = ((self.max_calls, calls), (self.max_tokens, used))
        return "; ".join(text for limit, text in limits if limit is not None)
