"""Settings of the steering evaluation from options: made, and checked together."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eval_recipes.steering.config import EVAL, SteeringEvalConfig
from saereg_plugin.errors import InputError, suggest

PACING = frozenset(
    f"judge_{name}"
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

CALIBRATED = ("embedding", "log_probability")
"""Judges whose threshold is learned from unsteered pairs."""

CHAT_ONLY = ("judge_model", "judge_base_url", "judge_temperature")


def make_config(options: dict[str, Any], **shared: Any) -> SteeringEvalConfig:
    """
    Build the settings from a recipe's options and those it shares with others.

    Raises:
        InputError: if an option is unknown, has an unusable value, or lacks what it needs.
    """
    known = {field.name for field in fields(SteeringEvalConfig)}
    for name in options:
        if name not in known:
            raise InputError(
                f"Option {name!r} of evaluation {EVAL!r} does not exist. "
                f"{suggest(name, known)}"
            )
    try:
        config = TypeAdapter(SteeringEvalConfig).validate_python({**shared, **options})
    except ValidationError as error:
        causes = "; ".join(
            f"{item['loc'][0]} = {item['input']!r}: {item['msg']}"
            for item in error.errors()
        )
        raise InputError(
            f"Options of evaluation {EVAL!r} cannot be used ({causes}). "
            "Correct them or leave them out."
        ) from error
    _check_together(config)
    return config


def uses_chat(config: SteeringEvalConfig) -> bool:
    """Return whether a chat model is asked for anything."""
    explains = config.explainer == "judge" and config.explanations is None
    return "chat" in config.judges or explains


def _check_together(config: SteeringEvalConfig) -> None:
    def refuse(name: str, expected: str) -> InputError:
        return InputError(
            f"{EVAL} option {name!r} is {getattr(config, name)!r}; expected {expected}."
        )

    for name in ("amounts", "judges", "prompts"):
        given = getattr(config, name)
        if len(set(given)) < len(given):
            raise refuse(name, "each value once")
    if not all(map(math.isfinite, config.amounts)):
        raise refuse("amounts", "finite numbers")
    if config.samples_per_prompt > config.unsteered_samples:
        raise refuse(
            "samples_per_prompt",
            f"at most unsteered_samples = {config.unsteered_samples}, or texts would repeat",
        )
    _check_calibration(config)
    if config.latents is not None:
        if not config.latents or len(set(config.latents)) < len(config.latents):
            raise refuse("latents", "one or more different ids")
        if min(config.latents) < 0:
            raise refuse("latents", "ids from 0 on")
    elif config.select == "contrast" and config.contrast is None:
        raise refuse("select", "another, or the two files of texts in 'contrast'")
    elif config.select == "explained" and config.explanations is None:
        raise refuse("select", "another, or a folder of results in 'explanations'")
    elif config.select == "stable" and config.stability is None:
        raise refuse("select", "another, or a folder of results in 'stability'")


def _check_calibration(config: SteeringEvalConfig) -> None:
    """Refuse settings under which no unsteered pair could be a false positive."""
    learning = [name for name in config.judges if name in CALIBRATED]
    n_latents = config.n_latents if config.latents is None else len(config.latents)
    pairs = n_latents * len(config.prompts) * config.unsteered_samples
    if learning and pairs * config.false_positive_rate < 1:
        raise InputError(
            f"{pairs} unsteered pairs (latents x prompts x unsteered_samples) are too few to "
            f"calibrate the judge {learning[0]!r} to a false-positive rate of "
            f"{config.false_positive_rate}; expected {math.ceil(1 / config.false_positive_rate)} "
            "or more. Raise unsteered_samples."
        )
