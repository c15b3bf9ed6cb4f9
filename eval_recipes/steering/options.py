"""Settings of the steering evaluation; the defaults are those of arXiv 2603.04198."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from eval_recipes.chat.options import ChatOptions
from eval_recipes.results.metrics import setting
from eval_recipes.running.options import parse_options
from eval_recipes.steering.generate.prompts import PUBLISHED_PROMPTS
from eval_recipes.steering.judges.protocol import CALIBRATED
from eval_recipes.steering.texts import EVAL
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import ALIVE_THRESHOLD

JudgeName = Literal["embedding", "embedding_published", "log_probability", "chat"]
Select = Literal["random", "stable", "explained", "contrast"]


@dataclass
class _OwnOptions(BaseEvalConfig):
    random_seed: int = setting(
        0, "Random Seed", "Seed of latents, texts, controls and resamples"
    )
    corpus: str = setting(
        "embedded", "Corpus", "Text of residual norms and token explanations"
    )
    select: Select = setting(
        "random",
        "Select",
        "random: from the alive pool; stable: its latents shared with other seeds; explained: "
        "those with an explanation in the given result; contrast: those that best separate two "
        "sets of texts",
    )
    latents: list[int] | None = setting(
        None, "Latents", "The latents themselves, instead of a choice"
    )
    n_latents: int = setting(
        300,
        "Number of Latents",
        "How many are drawn, or steered with by contrast",
        ge=1,
    )
    alive_threshold: float = setting(
        ALIVE_THRESHOLD,
        "Alive Threshold",
        "A latent is in the alive pool if cos(encoder, decoder) exceeds this",
    )
    stability: str | None = setting(
        None,
        "Stability",
        "Folder of cross_seed results, whose tables say how stable each latent is",
    )
    stable_minimum: float = setting(
        0.5,
        "Stable Minimum",
        "A latent is stable if it is shared with at least this share of the other seeds",
        gt=0,
        le=1,
    )
    contrast: list[str] | None = setting(
        None,
        "Contrast",
        "Two files of texts, one a line; steering is towards the first",
        min_length=2,
        max_length=2,
    )
    explanations: str | None = setting(
        None,
        "Explanations",
        "Folder of autointerp results, or file of Neuronpedia, to read explanations from; null: "
        "they are made here",
    )
    explainer: Literal["tokens", "n2g", "judge"] = setting(
        "tokens",
        "Explainer",
        "What makes explanations that are not read: lists of tokens, N2G's token sequences, or "
        "the chat model",
    )
    explainer_tokens: int = setting(
        262_144, "Explainer Tokens", "Tokens in which examples are looked for", ge=1
    )
    facts: str | None = setting(
        None,
        "Facts",
        "File of dated facts (.jsonl, .csv), or embedded, on which steering is measured as well",
        min_length=1,
    )
    facts_positions: Literal["generation", "prompt_end", "all"] = setting(
        "prompt_end",
        "Facts, Positions",
        "Positions of a fact that are steered; prompt_end: from the question's last token on, "
        "hence every token of a name",
    )
    facts_score: Literal["sum", "token_mean"] = setting(
        "sum",
        "Facts, Score",
        "Of a name: its log-probability, or that over its number of tokens",
    )
    facts_controls: int = setting(
        20,
        "Facts, Controls",
        "Random directions, and draws of random latents, that facts are also steered with",
        ge=1,
    )
    prompts: list[str] = setting(
        list(PUBLISHED_PROMPTS), "Prompts", "What is continued", min_length=1
    )
    strength_mode: Literal["fixed", "resid_rms", "target_preact", "norm_ratio"] = (
        setting(
            "fixed",
            "Strength Mode",
            "fixed: alpha; resid_rms: in RMS values of the residual stream; target_preact: rise "
            "of the pre-activation; norm_ratio: alpha over the median residual norm",
        )
    )
    amounts: list[float] = setting(
        [5.0],
        "Amounts",
        "Strengths in units of the mode; the first is the headline's",
        min_length=1,
    )
    positions: Literal["generation", "prompt_end", "all"] = setting(
        "generation", "Positions", "Which positions are steered"
    )
    new_tokens: int = setting(30, "New Tokens", "Tokens of a continuation", ge=1)
    greedy: bool = setting(False, "Greedy", "Take the likeliest token each time")
    temperature: float = setting(0.7, "Temperature", "Of sampling", gt=0)
    top_p: float = setting(0.9, "Top-p", "Of sampling", gt=0, le=1)
    samples_per_prompt: int = setting(
        1, "Samples per Prompt", "Texts of one latent and prompt", ge=1
    )
    calibration_pairs: int = setting(
        300,
        "Calibration Pairs",
        "Pairs of unsteered texts that thresholds are learned from, each in both orders; rounded "
        "up to as many for each latent",
        ge=1,
    )
    batch_size: int = setting(128, "Batch Size", "Texts made at a time", ge=1)
    backend: Literal["auto", "plain", "hooked"] = setting(
        "auto",
        "Backend",
        "plain: transformers, several times faster; hooked: TransformerLens; auto: plain where "
        "the SAE's hook and model allow it",
    )
    judges: list[JudgeName] = setting(
        ["embedding", "log_probability"],
        "Judges",
        "Who says what succeeded; the first is the headline's",
        min_length=1,
    )
    false_positive_rate: float = setting(
        0.05,
        "False-positive Rate",
        "Share of unsteered pairs that may succeed, to which thresholds are calibrated",
        gt=0,
        lt=1,
    )
    max_perplexity_ratio: float = setting(
        2.0,
        "Largest Perplexity Ratio",
        "Steered over unsteered perplexity up to which a success counts as fluent",
        gt=0,
    )


@dataclass
class SteeringEvalConfig(ChatOptions, _OwnOptions):
    """Settings of one run; the same for all its SAEs."""

    judge_model: str = setting(
        "gpt-5.1", "Judge Model", "Name the server knows it by, as published"
    )
    judge_temperature: float | None = setting(
        0.0, "Judge Temperature", "As published; null leaves it to the server", ge=0
    )


FROM_RUN = {"random_seed": "seed", "corpus": "corpus"}
"""Settings that the run decides: setting -> attribute of the run."""


def make_config(given: Mapping[str, Any], **shared: Any) -> SteeringEvalConfig:
    """
    Return the settings, with defaults that the run decides as keyword arguments.

    A chat model that is named judges first, unless ``judges`` says who does.

    Raises:
        InputError: if an option is unknown, has an unusable value, or lacks what it needs.
    """
    config = parse_options(
        EVAL, SteeringEvalConfig, _with_chat(given), shared, run_decides=FROM_RUN
    )
    _check_together(config)
    return config


def _with_chat(options: Mapping[str, Any]) -> Mapping[str, Any]:
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
    if config.facts is not None and config.strength_mode == "target_preact":
        raise refuse(
            "strength_mode", "another with facts, whose controls have one strength"
        )
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
        raise refuse("select", "another, or a folder or file in 'explanations'")
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
