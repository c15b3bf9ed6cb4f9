"""The client of a chat model, which any thread may ask."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.nap import sleep_using_event

from eval_recipes.chat.budget import Budget
from eval_recipes.chat.connection import Deadline, Signals
from eval_recipes.chat.errors import (
    AttemptError,
    CalledOff,
    GarbledReply,
    JudgeError,
    JudgeUnavailable,
    Redirected,
    RequestRefused,
    StatusError,
    Unreachable,
    Verdict,
    backoff,
    retry_after,
    verdict_on,
)
from eval_recipes.chat.exchange import Server, check_reachable
from eval_recipes.chat.messages import (
    Message,
    Reply,
    ReplyCache,
    estimate_prompt,
    most_bytes,
    most_tokens,
    read_completion,
    request_key,
)
from eval_recipes.chat.options import JudgeConfig, read_key
from saereg_plugin.errors import printable

logger = logging.getLogger(__name__)

_LIMIT, _NEWER_LIMIT = "max_tokens", "max_completion_tokens"


def check_judge(config: JudgeConfig) -> None:
    """
    Prove within seconds that a judge answers and knows key and model.

    Raises:
        InputError: if it does not, or the environment holds no usable key.
    """
    # a check keeps no reply, so any folder will do
    JudgeClient(config, Path()).check()


@dataclass(frozen=True)
class _Request:
    key: str
    messages: Sequence[Message]
    parameters: dict[str, Any]
    signal: threading.Event


class JudgeClient:
    """
    Asks a judge and keeps its replies.

    The same request is sent once, by any caller in any run; a request with an empty reply is
    sent once per client. The key is read from the environment, stays in memory, and is blanked
    wherever a server repeats it.

    Args:
        config: address and limits of the judge.
        root: folder of artefacts; replies go to ``root/judge/replies``.
        budget: shared with other clients; None makes one from the config's limits.

    Raises:
        InputError: if the environment holds no usable key.
    """

    def __init__(
        self, config: JudgeConfig, root: Path, *, budget: Budget | None = None
    ) -> None:
        self.config = config
        self.cache = ReplyCache(root)
        self.budget = budget or Budget(config.max_calls, config.max_tokens)
        self.cache_hits = 0
        self.retries = 0
        self._key = read_key()
        self._server = Server(config.url, self._key)
        self._slots = threading.BoundedSemaphore(config.concurrency)
        self._lock = threading.Lock()
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._signals = Signals()
        self._failures = 0
        self._fatal: str | None = None
        self._limit_name = _LIMIT

    def check(self) -> None:
        """
        Prove within seconds that the server answers and knows key and model.

        Raises:
            InputError: if it does not.
        """
        check_reachable(
            self._server, self.config, self._signals.stopped, self._redacted
        )

    def signal(self) -> threading.Event:
        """
        Return an event for requests that belong together.

        Once it is set, none of them is sent, and requests under way end; others continue.
        """
        return self._signals.new()

    def stop(self) -> None:
        """Send nothing more and end what is under way, for good."""
        self._signals.stop()

    close = stop

    def ask(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        signal: threading.Event | None = None,
    ) -> Reply:
        """
        Return the judge's reply, from the cache if it was given before; it may be empty.

        Args:
            messages: the chat.
            max_tokens: longest reply, in tokens.
            signal: an event of ``signal()``, which ends this request when it is set.

        Raises:
            BudgetExceeded: before the request is sent.
            RequestRefused: if the server refuses this request for good.
            JudgeUnavailable: if no attempt brought a usable reply.
        """
        parameters: dict[str, Any] = {"max_tokens": max_tokens}
        if self.config.temperature is not None:
            parameters["temperature"] = self.config.temperature
        key = request_key(self.config.model, self.config.url, messages, parameters)
        with self._lock:
            asking = self._asking[key]
        # other callers with this request wait, and then find the reply
        with asking:
            reply = self.cache.get(key)
            if reply is None:
                ends = signal or self._signals.stopped
                reply = self._fetch(_Request(key, messages, parameters, ends))
                self.cache.put(reply)
            else:
                with self._lock:
                    self.cache_hits += 1
        return reply

    def _fetch(self, request: _Request) -> Reply:
        retrying = Retrying(
            retry=retry_if_exception(self._is_worth_another),
            stop=stop_after_attempt(self.config.attempts),
            wait=lambda state: self._wait(
                _failure(state), request.key, state.attempt_number
            ),
            before_sleep=self._note_retry,
            sleep=sleep_using_event(request.signal),
            reraise=True,
        )
        try:
            reply = retrying(self._attempt, request)
        except CalledOff:
            self._require_open(request.signal)
            raise AssertionError("only a signal calls an attempt off") from None
        except AttemptError as error:
            # without the failure as its cause, which may repeat the key
            raise self._given_up(error) from None
        with self._lock:
            self._failures = 0
        return reply

    def _attempt(self, request: _Request) -> Reply:
        most = most_tokens(request.messages) + request.parameters["max_tokens"]
        with self._slots:
            self._require_open(request.signal)
            reserved = self.budget.reserve(most)
            used = 0
            try:
                # the wait for the budget may have been long
                self._require_open(request.signal)
                reply = self._send(request)
                used = reply.tokens
            except AttemptError as error:
                used = _lost(error, estimate_prompt(request.messages), most)
                raise
            finally:
                self.budget.settle(most, reserved, used)
        return reply

    def _send(self, request: _Request) -> Reply:
        named = dict(request.parameters)
        most = named.pop("max_tokens")
        completion = self._server.post(
            "/chat/completions",
            {
                "model": self.config.model,
                "messages": [dict(message) for message in request.messages],
                "stream": False,
                **named,
                self._limit_name: most,
            },
            deadline=Deadline(self.config.timeout_seconds, request.signal),
            max_bytes=most_bytes(most),
        )
        return read_completion(
            completion, request.key, request.messages, self._redacted
        )

    def _is_worth_another(self, error: BaseException) -> bool:
        if not isinstance(error, AttemptError) or isinstance(error, CalledOff):
            return False
        again = verdict_on(error) is Verdict.AGAIN
        soon = _asked_wait(error) <= self.config.max_wait_seconds
        return _wants_newer_limit(error) or (again and soon)

    def _wait(self, error: BaseException | None, key: str, attempt: int) -> float:
        if _wants_newer_limit(error):
            return 0.0
        return max(_asked_wait(error), backoff(self.config, key, attempt))

    def _note_retry(self, state: RetryCallState) -> None:
        error = _failure(state)
        with self._lock:
            self.retries += 1
        if _wants_newer_limit(error):
            self._limit_name = _NEWER_LIMIT
            return
        logger.info(
            "Judge: %s; attempt %d after %.1f s",
            self._shown(error),
            state.attempt_number + 1,
            state.upcoming_sleep,
        )

    def _given_up(self, error: AttemptError) -> JudgeError:
        said, verdict = self._shown(error), verdict_on(error)
        if verdict is Verdict.REFUSED:
            return RequestRefused(f"The judge refused a request ({said}).")
        with self._lock:
            self._failures += 1
            if verdict is Verdict.FATAL or self._failures >= self.config.max_failures:
                self._fatal = said
        return JudgeUnavailable(
            f"The judge at {self.config.url} gave no usable reply ({said})."
        )

    def _require_open(self, signal: threading.Event) -> None:
        if self._signals.stopped.is_set():
            raise JudgeUnavailable("The run was interrupted.")
        if signal.is_set():
            raise JudgeUnavailable("The request was called off.")
        if self._fatal is not None:
            raise JudgeUnavailable(
                f"The judge at {self.config.url} is not asked any more after "
                f"{self._failures} failed requests in a row (the last: {self._fatal})."
            )

    def _shown(self, error: BaseException | None) -> str:
        return printable(self._redacted(str(error)))[:500]

    def _redacted(self, text: str) -> str:
        # a shorter key is a placeholder, and would blank ordinary words
        return text.replace(self._key, "***") if len(self._key) >= 6 else text


def _failure(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def _asked_wait(error: BaseException | None) -> float:
    """Return the seconds that the server asks to wait."""
    return retry_after(error.headers) if isinstance(error, StatusError) else 0.0


def _wants_newer_limit(error: BaseException | None) -> bool:
    """Return whether the model, a newer one of OpenAI, has another name for the limit."""
    refused = isinstance(error, StatusError) and error.status == 400
    return refused and _NEWER_LIMIT in str(error)


def _lost(error: AttemptError, prompt: int, most: int) -> int:
    """
    Return the tokens that an attempt without a reply may have used.

    Nobody counted the tokens of an attempt that was given up, so all ``most`` that were
    reserved are taken as used. ``prompt`` estimates the tokens of the request.
    """
    if isinstance(error, GarbledReply):
        return max(prompt, error.tokens)
    refused = isinstance(error, StatusError) and error.status < 500
    if refused or isinstance(error, Redirected) or not error.sent:
        return 0
    return prompt if isinstance(error, StatusError | Unreachable) else most
