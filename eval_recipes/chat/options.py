"""Address, limits and key of a chat model, also as options."""

from __future__ import annotations

import dataclasses
import os
from urllib.parse import urlsplit

from pydantic import Field
from pydantic.dataclasses import dataclass

from eval_recipes.results.metrics import setting
from saereg_plugin.checks import checked_dataclass
from saereg_plugin.errors import InputError

PREFIX = "judge_"

PACING = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "concurrency",
        "timeout_seconds",
        "attempts",
        "backoff_seconds",
        "max_calls",
        "max_tokens",
    )
)
"""Settings that limit or pace requests and decide no result."""

IDENTITY = frozenset({"judge_model", "judge_base_url", "judge_temperature"})
"""Settings that decide what the chat model replies."""


@dataclass(kw_only=True)
class ChatOptions:
    """Chat-model address, limits and retries, as options of an evaluation."""

    judge_model: str = setting(
        "gpt-4o-mini", "Judge Model", "Name the server knows it by, as published"
    )
    judge_base_url: str | None = setting(
        None, "Judge Base URL", "Server; null: OPENAI_BASE_URL, else OpenAI's"
    )
    judge_temperature: float | None = setting(
        None, "Judge Temperature", "As published; null leaves it to the server", ge=0
    )
    judge_concurrency: int = setting(8, "Judge Concurrency", "Requests at once", ge=1)
    judge_timeout_seconds: float = setting(
        60.0, "Judge Timeout", "How long one attempt may take"
    )
    judge_attempts: int = setting(
        6, "Judge Attempts", "How often a request is sent before it failed", ge=1
    )
    judge_backoff_seconds: float = setting(
        1.0, "Judge Backoff", "Longest wait before the second attempt"
    )
    judge_max_calls: int | None = setting(
        None, "Judge Max Calls", "Requests that this run may send", ge=1
    )
    judge_max_tokens: int | None = setting(
        None, "Judge Max Tokens", "Tokens that this run may use", ge=1
    )

    def judge_config(self, *, seed: int) -> JudgeConfig:
        """Return the chat model's settings; raises InputError for an impossible one."""
        values = {
            field.name.removeprefix(PREFIX): getattr(self, field.name)
            for field in dataclasses.fields(ChatOptions)  # pyright: ignore[reportArgumentType]
        }
        return JudgeConfig(**values, seed=seed)


KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable with the key: the only place it is taken from."""

URL_VARIABLE = "OPENAI_BASE_URL"
DEFAULT_URL = "https://api.openai.com/v1"
_ACCOUNT = {
    "OpenAI-Organization": "OPENAI_ORG_ID",
    "OpenAI-Project": "OPENAI_PROJECT_ID",
}


@checked_dataclass
class JudgeConfig:
    """A chat model behind an OpenAI-compatible server; raises InputError for unusable values."""

    model: str
    """Name of the model, as the server knows it."""

    base_url: str | None = None
    """Address up to and with ``/v1``; None or an empty OPENAI_BASE_URL takes OpenAI's."""

    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature; None leaves it to the server."""

    concurrency: int = Field(default=8, ge=1)
    """Requests under way at once."""

    timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest duration of one attempt, from the start to the last byte of the reply."""

    attempts: int = Field(default=6, ge=1)
    """How often a request is sent before it counts as failed."""

    backoff_seconds: float = Field(default=1.0, ge=0)
    """Longest wait before the second attempt; doubles with each further one."""

    max_wait_seconds: float = Field(default=120.0, ge=0)
    """Longest wait between attempts; a server that asks for more counts as failed."""

    max_failures: int = Field(default=3, ge=1)
    """Failed requests in a row after which no further request is sent."""

    max_calls: int | None = Field(default=None, ge=1)
    """Requests that may be sent, repeated ones included; None is no limit."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens that may be used, of requests and replies; None is no limit."""

    seed: int = 0
    """Seed of the jitter in the waits."""

    def __post_init__(self) -> None:
        if not self.model:
            raise InputError(
                "No judge model was named; expected the name of a model that the server "
                "at the judge's base URL serves."
            )
        self._check_url()

    @property
    def url(self) -> str:
        """The address requests go to, without a slash at its end."""
        chosen = self.base_url
        if chosen is None:
            chosen = os.environ.get(URL_VARIABLE) or DEFAULT_URL
        return chosen.rstrip("/")

    def _check_url(self) -> None:
        if not self.url:
            raise InputError(
                "The judge's base URL is empty; expected an address such as "
                "'http://127.0.0.1:8000/v1'. Leave it out for that of the environment variable "
                f"{URL_VARIABLE}, or OpenAI's."
            )
        try:
            parts = urlsplit(self.url)
            usable = parts.port != 0 and bool(parts.hostname) and _is_plain(self.url)
        except ValueError:
            raise self._no_address() from None
        # The address is stored in results, so nothing secret may stand in it, and it is
        # not repeated in the message when something may.
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError(
                "The judge's base URL holds a user name, password or query; expected the "
                f"plain address. A key belongs into the environment variable {KEY_VARIABLE}."
            )
        if parts.scheme not in ("http", "https") or not usable:
            raise self._no_address()

    def _no_address(self) -> InputError:
        # one that cannot be taken apart may hold a password
        shown = "no address" if "@" in self.url else repr(self.url)
        return InputError(
            f"The judge's base URL is {shown}; expected an address such as "
            "'http://127.0.0.1:8000/v1', in plain ASCII."
        )


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def read_key() -> str:
    """
    Return the key from the environment.

    Raises:
        InputError: if there is none, or it cannot stand in the head of a request.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise InputError(
            f"The environment variable {KEY_VARIABLE} is not set; expected the key of the "
            "judge's server (any text for a server that asks for none)."
        )
    _require_plain(KEY_VARIABLE, key)
    return key


def read_account() -> dict[str, str]:
    """
    Return the headers that say who pays at OpenAI, as the environment has it.

    Raises:
        InputError: if one cannot stand in the head of a request.
    """
    found = {
        header: os.environ.get(variable, "").strip()
        for header, variable in _ACCOUNT.items()
    }
    for header, value in found.items():
        _require_plain(_ACCOUNT[header], value)
    return {header: value for header, value in found.items() if value}


def _require_plain(variable: str, value: str) -> None:
    if not (value.isascii() and value.isprintable()):
        raise InputError(
            f"The environment variable {variable} holds a line break, or another character that "
            "no key has; expected one line of printable ASCII. Copy it again."
        )
