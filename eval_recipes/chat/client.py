"""The judge: one method that asks, from any thread."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from eval_recipes.chat.budget import Budget
from eval_recipes.chat.config import JudgeConfig, read_key
from eval_recipes.chat.connection import Deadline
from eval_recipes.chat.errors import (
    AttemptError,
    CalledOff,
    GarbledReply,
    JudgeError,
    JudgeUnavailable,
    Redirected,
    RequestRefused,
    Signals,
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


class JudgeClient:
    """
    Asks a judge and keeps its replies.

    The same request is sent once, whatever asks for it and in whatever run (one that got an
    empty reply: once a client). The key is read from the environment and stays in memory;
    wherever a server repeats it, it is blanked.

    Args:
        config: which judge, and the limits.
        root: folder of artefacts; replies go to ``root/judge/replies``.
        budget: one that other clients share; None makes one of the config's limits.

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

        Once it is set, none of them is sent, and those under way end; others go on.
        """
        return self._signals.new()

    def stop(self) -> None:
        """Send nothing more and end what is under way, for good: the run was interrupted."""
        self._signals.stop()

    def close(self) -> None:
        """End the client; whatever is still under way ends, too."""
        self.stop()

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
            signal: one of ``signal()``, which ends this request when it is set.

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
        # Whoever asks the same meanwhile waits, and then finds the reply.
        with asking:
            reply = self.cache.get(key)
            if reply is None:
                reply = self._fetch(
                    key, messages, parameters, signal or self._signals.stopped
                )
                self.cache.put(reply)
            else:
                with self._lock:
                    self.cache_hits += 1
        return reply

    def _fetch(
        self,
        key: str,
        messages: Sequence[Message],
        parameters: dict[str, Any],
        signal: threading.Event,
    ) -> Reply:
        for attempt in range(1, self.config.attempts + 1):
            try:
                reply = self._attempt(key, messages, parameters, signal)
            except CalledOff:
                self._end(signal)
            except AttemptError as error:
                wait = self._wait_after(error, key, attempt)
            else:
                with self._lock:
                    self._failures = 0
                return reply
            with self._lock:
                self.retries += 1
            signal.wait(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(
        self,
        key: str,
        messages: Sequence[Message],
        parameters: dict[str, Any],
        signal: threading.Event,
    ) -> Reply:
        most = most_tokens(messages) + parameters["max_tokens"]
        with self._slots:
            self._require_open(signal)
            reserved = self.budget.reserve(most)
            used = 0
            try:
                # The budget may have kept it waiting.
                self._require_open(signal)
                reply = self._send(key, messages, parameters, signal)
                used = reply.tokens
            except AttemptError as error:
                used = _lost(error, estimate_prompt(messages), most)
                raise
            finally:
                self.budget.settle(most, reserved, used)
        return reply

    def _send(
        self,
        key: str,
        messages: Sequence[Message],
        parameters: dict[str, Any],
        signal: threading.Event,
    ) -> Reply:
        """Send one request and read its reply."""
        named = dict(parameters)
        named[self._limit_name] = named.pop("max_tokens")
        completion = self._server.post(
            "/chat/completions",
            {
                "model": self.config.model,
                "messages": [dict(message) for message in messages],
                "stream": False,
                **named,
            },
            deadline=Deadline(self.config.timeout_seconds, signal),
            max_bytes=most_bytes(parameters["max_tokens"]),
        )
        return read_completion(completion, key, messages, self._redacted)

    def _wait_after(self, error: AttemptError, key: str, attempt: int) -> float:
        """
        Return how long to wait before the next attempt.

        Raises:
            JudgeError: if there should be none; without the failure as its cause, which
                may repeat the key.
        """
        said = printable(self._redacted(str(error)))[:500]
        verdict = verdict_on(error)
        if attempt < self.config.attempts and self._renames_limit(error):
            return 0.0
        if verdict is Verdict.REFUSED:
            raise RequestRefused(f"The judge refused a request ({said}).") from None
        asked = 0.0
        if isinstance(error, StatusError):
            asked = retry_after(error.headers)
        last = attempt == self.config.attempts or asked > self.config.max_wait_seconds
        if last or verdict in (Verdict.FATAL, Verdict.LAST):
            raise self._failed(said, fatal=verdict is Verdict.FATAL) from None
        wait = max(asked, backoff(self.config, key, attempt))
        logger.info("Judge: %s; attempt %d after %.1f s", said, attempt + 1, wait)
        return wait

    def _renames_limit(self, error: AttemptError) -> bool:
        """Newer models of OpenAI know the limit of the reply by another name."""
        refused = isinstance(error, StatusError) and error.status == 400
        asks = refused and _NEWER_LIMIT in str(error)
        if asks:
            self._limit_name = _NEWER_LIMIT
        return asks

    def _failed(self, said: str, *, fatal: bool) -> JudgeError:
        with self._lock:
            self._failures += 1
            if fatal or self._failures >= self.config.max_failures:
                self._fatal = said
        return JudgeUnavailable(
            f"The judge at {self.config.url} gave no usable reply ({said})."
        )

    def _end(self, signal: threading.Event) -> NoReturn:
        self._require_open(signal)
        raise AssertionError("only a signal calls an attempt off")

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

    def _redacted(self, text: str) -> str:
        # A shorter key is a placeholder, and would blank ordinary words.
        return text.replace(self._key, "***") if len(self._key) >= 6 else text


def _lost(error: AttemptError, prompt: int, most: int) -> int:
    """
    Return the tokens that an attempt without a reply may have taken.

    Nobody counted the tokens of one that was given up: they are taken to be all.

    Args:
        error: why there is no reply.
        prompt: estimate of the request's own tokens.
        most: what was set aside.
    """
    if isinstance(error, GarbledReply):
        return max(prompt, error.tokens)
    refused = isinstance(error, StatusError) and error.status < 500
    if refused or isinstance(error, Redirected) or not error.sent:
        return 0
    return prompt if isinstance(error, StatusError | Unreachable) else most
