"""Settings of the steering evaluation from options: made, and checked together."""

from __future__ import annotations

import math
from typing import Any

from eval_recipes.running.eval_config import eval_config
from eval_recipes.steering.options import EVAL, SteeringEvalConfig
from saereg_plugin.errors import InputError

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

FROM_RUN = {"random_seed": "--seed", "corpus": "--corpus"}
"""Settings that a run's other evaluations and their artefacts share, and their flags."""

CHAT_ONLY = ("judge_model", "judge_base_url", "judge_temperature")


def make_config(options: dict[str, Any], **shared: Any) -> SteeringEvalConfig:
    """
    Build the settings from a recipe's options and those it shares with others.

    A chat model that is named judges, too, unless ``judges`` say who does.

    Raises:
        InputError: if an option is unknown, has an unusable value, or lacks what it needs.
    """
    for name in options:
        if name in FROM_RUN:
            raise InputError(
                f"Option {name!r} of evaluation {EVAL!r} would hold for a part of the run only; "
                f"expected it for all of it: {FROM_RUN[name]} (RunContext."
                f"{FROM_RUN[name].strip('-')})."
            )
    config = eval_config(EVAL, SteeringEvalConfig, _with_chat(options), shared=shared)
    _check_together(config)
    return config


def _with_chat(options: dict[str, Any]) -> dict[str, Any]:
    """Let the chat model judge first where one is named and no judges are."""
    flags = ("judge_model", "judge_base_url")
    named = any(options.get(name) is not None for name in flags)
    if not named or "judges" in options:
        return options
    return {**options, "judges": ["chat", *SteeringEvalConfig().judges]}


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
    if config.greedy and config.samples_per_prompt > 1:
        raise refuse(
            "samples_per_prompt", "1 with greedy decoding, whose texts are all the same"
        )
    _check_calibration(config)
    if config.latents is not None:
        if not config.latents or len(set(config.latents)) < len(config.latents):
            raise refuse("latents", "one or more different ids")
        if min(config.latents) < 0:
            raise refuse("latents", "ids from 0 on")
        if config.select == "contrast":
            raise refuse(
                "latents", "none with select=contrast, which chooses them itself"
            )
    elif config.select == "contrast" and config.contrast is None:
        raise refuse("select", "another, or the two files of texts in 'contrast'")
    elif config.select == "explained" and config.explanations is None:
        raise refuse("select", "another, or a folder of results in 'explanations'")
    elif config.select == "stable" and config.stability is None:
        raise refuse("select", "another, or a folder of results in 'stability'")


def _check_calibration(config: SteeringEvalConfig) -> None:
    """Refuse settings under which no unsteered pair could be a false positive."""
    learning = [name for name in config.judges if name in CALIBRATED]
    # both orders of a pair are judged
    scores = 2 * config.calibration_pairs
    # products such as .05 * 60 may fall just short of a whole number
    if learning and scores * config.false_positive_rate < 1 - 1e-9:
        least = math.ceil(1 / (2 * config.false_positive_rate) - 1e-9)
        raise InputError(
            f"{config.calibration_pairs} calibration pairs are too few to calibrate the judge "
            f"{learning[0]!r} to a false-positive rate of {config.false_positive_rate}; "
            f"expected {least} or more. Raise calibration_pairs."
        )
