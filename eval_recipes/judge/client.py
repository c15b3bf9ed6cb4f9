"""The judge: one method that asks, from any thread."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai

from eval_recipes.judge.budget import Budget
from eval_recipes.judge.cache import ReplyCache
from eval_recipes.judge.config import JudgeConfig, read_key
from eval_recipes.judge.errors import JudgeError, JudgeUnavailable, RequestRefused
from eval_recipes.judge.messages import Message, Reply, estimate_tokens, request_key
from eval_recipes.judge.reachable import check_reachable
from eval_recipes.judge.retry import (
    GarbledReply,
    Verdict,
    backoff,
    retry_after,
    verdict_on,
)

logger = logging.getLogger(__name__)

_LIMIT_NAMES = ("max_tokens", "max_completion_tokens")


class JudgeClient:
    """
    Asks a judge and keeps its replies.

    The same request is sent once, whatever asks for it and in whatever run. The key is read
    from the environment and stays in the HTTP client; wherever a server repeats it, it is
    blanked.

    Args:
        config: which judge, and the limits.
        root: folder of artefacts; replies go to ``root/judge/replies``.

    Raises:
        InputError: if the environment holds no key.
    """

    def __init__(self, config: JudgeConfig, root: Path) -> None:
        self.config = config
        self.cache = ReplyCache(root)
        self.budget = Budget(config.max_calls, config.max_tokens)
        self.cache_hits = 0
        self.retries = 0
        self._key = read_key()
        self._api = openai.OpenAI(
            api_key=self._key,
            base_url=config.url,
            timeout=config.timeout_seconds,
            max_retries=0,
        )
        self._slots = threading.BoundedSemaphore(config.concurrency)
        self._lock = threading.Lock()
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._stopped = threading.Event()
        self._failures = 0
        self._fatal: str | None = None
        self._limit_name = _LIMIT_NAMES[0]

    def check(self) -> None:
        """
        Prove within seconds that the server answers and knows key and model.

        Raises:
            InputError: if it does not.
        """
        check_reachable(self._api, self.config, self._redacted)

    def stop(self) -> None:
        """Send nothing more and end the waits: the run was interrupted."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """
        Return the judge's reply, from the cache if it was given before.

        Args:
            messages: the chat.
            max_tokens: longest reply, in tokens.

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
                reply = self._fetch(key, messages, parameters)
                self.cache.put(reply)
            else:
                with self._lock:
                    self.cache_hits += 1
        return reply

    def _fetch(
        self, key: str, messages: Sequence[Message], parameters: dict[str, Any]
    ) -> Reply:
        for attempt in range(1, self.config.attempts + 1):
            try:
                reply = self._attempt(key, messages, parameters)
            except (openai.OpenAIError, ValueError) as error:
                wait = self._wait_after(error, key, attempt)
            else:
                with self._lock:
                    self._failures = 0
                return reply
            with self._lock:
                self.retries += 1
            self._stopped.wait(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(
        self, key: str, messages: Sequence[Message], parameters: dict[str, Any]
    ) -> Reply:
        prompt = sum(estimate_tokens(message["content"]) for message in messages)
        reserved = prompt + parameters["max_tokens"]
        with self._slots:
            self._require_open()
            self.budget.reserve(reserved)
            used = 0
            try:
                reply = self._send(key, messages, parameters, prompt)
                used = reply.tokens
            finally:
                self.budget.settle(reserved, used)
        return reply

    def _send(
        self,
        key: str,
        messages: Sequence[Message],
        parameters: dict[str, Any],
        prompt: int,
    ) -> Reply:
        """Send one request and read its reply."""
        named = dict(parameters)
        named[self._limit_name] = named.pop("max_tokens")
        create: Any = self._api.chat.completions.create
        completion = create(
            model=self.config.model,
            messages=[dict(message) for message in messages],
            stream=False,
            **named,
        )
        try:
            text = completion.choices[0].message.content
        except (AttributeError, TypeError, IndexError):
            raise GarbledReply("the reply is no chat completion") from None
        text = self._redacted("" if text is None else str(text)).strip()
        usage = getattr(completion, "usage", None)
        counted = (
            getattr(usage, "prompt_tokens", None),
            getattr(usage, "completion_tokens", None),
        )
        return Reply(
            key,
            text,
            counted[0] if isinstance(counted[0], int) else prompt,
            counted[1] if isinstance(counted[1], int) else estimate_tokens(text),
        )

    def _wait_after(self, error: Exception, key: str, attempt: int) -> float:
        """
        Return how long to wait before the next attempt.

        Raises:
            JudgeError: if there should be none; without the failure as its cause, which
                may repeat the key.
        """
        said = f"{type(error).__name__}: {self._redacted(str(error))}"[:500]
        verdict = verdict_on(error)
        if attempt < self.config.attempts and self._renames_limit(error):
            return 0.0
        if verdict is Verdict.REFUSED:
            raise RequestRefused(f"The judge refused a request ({said}).") from None
        asked = 0.0
        if isinstance(error, openai.APIStatusError):
            asked = retry_after(error.response.headers)
        last = attempt == self.config.attempts
        too_long = asked > self.config.max_wait_seconds
        if verdict is Verdict.FATAL or last or too_long:
            raise self._failed(said, fatal=verdict is Verdict.FATAL) from None
        wait = max(asked, backoff(self.config, key, attempt))
        logger.info("Judge: %s; attempt %d after %.1f s", said, attempt + 1, wait)
        return wait

    def _renames_limit(self, error: Exception) -> bool:
        """Newer models of OpenAI know the limit of the reply by another name."""
        asks = isinstance(error, openai.BadRequestError) and (
            _LIMIT_NAMES[1] in str(error)
        )
        if asks:
            self._limit_name = _LIMIT_NAMES[1]
        return asks

    def _failed(self, said: str, *, fatal: bool) -> JudgeError:
        with self._lock:
            self._failures += 1
            if fatal or self._failures >= self.config.max_failures:
                self._fatal = said
        return JudgeUnavailable(
            f"The judge at {self.config.url} gave no usable reply ({said})."
        )

    def _require_open(self) -> None:
        if self._stopped.is_set():
            raise JudgeUnavailable("The run was interrupted.")
        if self._fatal is not None:
            raise JudgeUnavailable(
                f"The judge at {self.config.url} is not asked any more after "
                f"{self._failures} failed requests in a row (the last: {self._fatal})."
            )

    def _redacted(self, text: str) -> str:
        # A shorter key is a placeholder, and would blank ordinary words.
        return text.replace(self._key, "***") if len(self._key) >= 6 else text
