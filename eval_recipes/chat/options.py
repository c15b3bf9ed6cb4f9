"""Settings of the chat model that several evaluations share."""

from __future__ import annotations

import dataclasses

from pydantic import Field
from pydantic.dataclasses import dataclass

from eval_recipes.chat.config import JudgeConfig

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

    judge_model: str = Field(
        default="gpt-4o-mini",
        title="Judge Model",
        description="Name the server knows it by, as published",
    )
    judge_base_url: str | None = Field(
        default=None,
        title="Judge Base URL",
        description="Server; null: OPENAI_BASE_URL, else OpenAI's",
    )
    judge_temperature: float | None = Field(
        default=None,
        ge=0,
        title="Judge Temperature",
        description="As published; null leaves it to the server",
    )
    judge_concurrency: int = Field(
        default=8, ge=1, title="Judge Concurrency", description="Requests at once"
    )
    judge_timeout_seconds: float = Field(
        default=60.0,
        title="Judge Timeout",
        description="How long one attempt may take",
    )
    judge_attempts: int = Field(
        default=6,
        ge=1,
        title="Judge Attempts",
        description="How often a request is sent before it failed",
    )
    judge_backoff_seconds: float = Field(
        default=1.0,
        title="Judge Backoff",
        description="Longest wait before the second attempt",
    )
    judge_max_calls: int | None = Field(
        default=None,
        ge=1,
        title="Judge Max Calls",
        description="Requests that this run may send",
    )
    judge_max_tokens: int | None = Field(
        default=None,
        ge=1,
        title="Judge Max Tokens",
        description="Tokens that this run may use",
    )

    def judge_config(self, *, seed: int) -> JudgeConfig:
        """Return the chat model's settings; raises InputError for an impossible one."""
        values = {
            field.name.removeprefix(PREFIX): getattr(self, field.name)
            for field in dataclasses.fields(ChatOptions)  # pyright: ignore[reportArgumentType]
        }
        return JudgeConfig(**values, seed=seed)
