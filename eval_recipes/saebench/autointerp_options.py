"""Settings of the recipe ``autointerp``, and what it refuses before anything is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.context import RunContext, Subject
from eval_recipes.judge import JudgeClient, JudgeConfig
from eval_recipes.results import check_unique_paths
from eval_recipes.saebench.autointerp_data import HUB_DATASET, hook_layer
from eval_recipes.saebench.recipe import options_of
from saereg_plugin.assets import require_hub_repo
from saereg_plugin.errors import InputError

EVAL = "autointerp"


@dataclass(frozen=True, kw_only=True)
class AutoInterpOptions:
    """
    Settings, ``RunContext.options["autointerp"]``.

    What upstream shows a judge (15 examples to explain, 14 to score, 10 tokens on either
    side) is as upstream has it.
    """

    n_latents: int = 100
    """Latents, drawn among those alive enough (upstream and published: 1000)."""

    latents: tuple[int, ...] | None = None
    """The latents themselves, instead of a draw."""

    total_tokens: int = 262_144
    """Tokens in which examples are looked for (upstream: 2,000,000)."""

    llm_context_size: int = 128
    """Tokens in one context, as upstream; not the SAE's own."""

    dead_latent_threshold: float = 15
    """Activations that a latent needs to be drawn, as upstream."""

    dataset: Literal["heldout", "hub"] = "heldout"
    """Held-out text of the run's corpus, or the hub set that upstream uses."""

    explainer: Literal["judge", "tokens"] = "judge"
    """A language model, or the token explainer, which needs no server."""

    judge_model: str = "gpt-4o-mini"
    """Model that explains and scores, as upstream."""

    judge_base_url: str | None = None
    """Address of an OpenAI-compatible server; None takes OPENAI_BASE_URL, else OpenAI's."""

    judge_temperature: float | None = None
    """Sampling temperature; None leaves it to the server, as upstream."""

    judge_concurrency: int = 8
    """Requests under way at once."""

    judge_timeout_seconds: float = 60.0
    """How long one request may stay silent."""

    judge_attempts: int = 6
    """How often a request is sent before it counts as failed."""

    judge_backoff_seconds: float = 1.0
    """Longest wait before the second attempt; doubles with each further one."""

    judge_max_calls: int | None = None
    """Requests that this run may send."""

    judge_max_tokens: int | None = None
    """Tokens that this run may use, of requests and replies."""

    save_logs: bool = False
    """Keep upstream's log of each latent, which repeats the prompts with their text."""


def autointerp_options(context: RunContext) -> AutoInterpOptions:
    """
    Return the recipe's settings.

    Raises:
        InputError: for an unknown name or an impossible value.
    """
    options = options_of(EVAL, AutoInterpOptions, context.options.get(EVAL, {}))
    for name, least in (
        ("n_latents", 2),
        ("total_tokens", 1),
        ("llm_context_size", 22),
    ):
        value: Any = getattr(options, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(
                f"{EVAL} option {name!r} is {value!r}; expected a whole number of at "
                f"least {least}."
            )
    for name, known in (
        ("explainer", ("judge", "tokens")),
        ("dataset", ("heldout", "hub")),
    ):
        if getattr(options, name) not in known:
            raise InputError(
                f"{EVAL} option {name!r} is {getattr(options, name)!r}; expected one of "
                f"{', '.join(map(repr, known))}."
            )
    if options.latents is not None:
        wrong = [x for x in options.latents if not isinstance(x, int) or x < 0]
        if wrong or len(set(options.latents)) != len(options.latents):
            raise InputError(
                f"{EVAL} option 'latents' is {list(options.latents)!r}; expected different "
                "whole numbers from 0."
            )
        if len(options.latents) < 2:
            raise InputError(
                f"{EVAL} option 'latents' names {len(options.latents)} latent; expected two "
                "or more, or upstream's standard deviation has no value."
            )
        # Their order must not matter, and sums depend on it.
        options = dataclasses.replace(options, latents=tuple(sorted(options.latents)))
    return options


def judge_config(context: RunContext, options: AutoInterpOptions) -> JudgeConfig:
    """Return the judge's settings; raises InputError for an impossible one."""
    return JudgeConfig(
        model=options.judge_model,
        base_url=options.judge_base_url,
        temperature=options.judge_temperature,
        concurrency=options.judge_concurrency,
        timeout_seconds=options.judge_timeout_seconds,
        attempts=options.judge_attempts,
        backoff_seconds=options.judge_backoff_seconds,
        max_calls=options.judge_max_calls,
        max_tokens=options.judge_max_tokens,
        seed=context.seed,
    )


def check(context: RunContext) -> None:
    """
    Refuse what cannot work before anything is loaded; ask the judge's server.

    Raises:
        InputError: for options, SAEs, text, key or server that nothing could run with.
    """
    options = autointerp_options(context)
    check_unique_paths(context.subjects)
    for subject in context.subjects:
        _check_subject(subject, options)
    if options.dataset == "hub":
        if context.data != "hub":
            raise InputError(
                f"{EVAL} option 'dataset' is 'hub', but the run's data are "
                f"{context.data!r}; expected 'heldout', or a run on data of the hub."
            )
        require_hub_repo(
            HUB_DATASET,
            kind="dataset",
            advice=f"Set {EVAL} option 'dataset' to 'heldout'.",
        )
    if options.explainer == "judge":
        client = JudgeClient(judge_config(context, options), context.artifacts)
        try:
            client.check()
        finally:
            client.close()


def _check_subject(subject: Subject, options: AutoInterpOptions) -> None:
    cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
    metadata = cfg.get("metadata") or cfg
    if hook := metadata.get("hook_name"):
        hook_layer(hook)
    if metadata.get("hook_head_index") is not None:
        raise InputError(
            f"SAE {subject.sae_id!r} reads a single head, which {EVAL} cannot; expected an "
            "SAE on a whole hook."
        )
    needed = max(options.latents) + 1 if options.latents else options.n_latents
    if cfg["d_sae"] < needed:
        raise InputError(
            f"SAE {subject.sae_id!r} has {cfg['d_sae']} latents, but {EVAL} was told to use "
            f"{'latent ' + str(needed - 1) if options.latents else needed}; choose fewer."
        )
