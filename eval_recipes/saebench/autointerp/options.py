"""Settings of the recipe ``autointerp``, and what follows from them alone."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal

from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.main import AutoInterp
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.chat import JudgeConfig, read_key
from eval_recipes.results.files import check_unique_paths
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import options_of
from eval_recipes.saebench.autointerp.data import HUB_DATASET, hook_layer
from saereg_plugin.errors import InputError
from saereg_plugin.sources.assets import require_hub_repo

EVAL = "autointerp"

_LEAST = {"n_latents": 2, "total_tokens": 1, "llm_context_size": 22}
_KNOWN = {"explainer": ("judge", "tokens"), "dataset": ("heldout", "hub")}
# Options that only limit or pace what is asked.
_LIMITS = frozenset(
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
    """How long one attempt may take, from the start to the last byte of the reply."""

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
    for name, least in _LEAST.items():
        if not _is_whole(getattr(options, name), least):
            raise _refusal(options, name, f"a whole number of at least {least}")
    threshold: Any = options.dead_latent_threshold
    if not (
        isinstance(threshold, (int, float))
        and not isinstance(threshold, bool)
        and 0 <= threshold < math.inf
    ):
        raise _refusal(
            options, "dead_latent_threshold", "a finite number of at least 0"
        )
    for name, known in _KNOWN.items():
        if getattr(options, name) not in known:
            raise _refusal(options, name, f"one of {', '.join(map(repr, known))}")
    if not isinstance(options.save_logs, bool):
        raise _refusal(options, "save_logs", "true or false")
    if options.latents is None:
        return options
    # Their order must not matter, and sums depend on it.
    return dataclasses.replace(options, latents=_checked_latents(options))


def _checked_latents(options: AutoInterpOptions) -> tuple[int, ...]:
    given: Any = options.latents
    if not (
        isinstance(given, (list, tuple))
        and all(_is_whole(latent, 0) for latent in given)
        and len(set(given)) == len(given)
    ):
        raise _refusal(options, "latents", "different whole numbers from 0, as a list")
    if len(given) < 2:
        raise InputError(
            f"{EVAL} option 'latents' names {len(given)} latent; expected two or more, or "
            "upstream's standard deviation has no value."
        )
    return tuple(sorted(given))


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _refusal(options: AutoInterpOptions, name: str, expected: str) -> InputError:
    return InputError(
        f"{EVAL} option {name!r} is {getattr(options, name)!r}; expected {expected}."
    )


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


def text_name(context: RunContext, options: AutoInterpOptions) -> str:
    """Return which text the latents are explained on."""
    return HUB_DATASET if options.dataset == "hub" else f"{context.corpus}/heldout"


def is_as_published(options: AutoInterpOptions) -> bool:
    """Return whether everything that moves a score is as in SAEBench's published ones."""
    theirs = AutoInterpEvalConfig()
    return (
        (options.dataset, options.explainer) == ("hub", "judge")
        and options.latents is None
        and options.judge_model == AutoInterpOptions.judge_model
        and options.judge_temperature is None
        and options.total_tokens == theirs.total_tokens
        and options.llm_context_size == theirs.llm_context_size
        and options.dead_latent_threshold == theirs.dead_latent_threshold
    )


def prompts_identity() -> str:
    """Return a hash of upstream's code that writes the prompts of explainer and scorer."""
    makers = (AutoInterp.get_generation_prompts, AutoInterp.get_scoring_prompts)
    text = "".join(inspect.getsource(maker) for maker in makers)
    return hashlib.sha256(text.encode()).hexdigest()


def determinants(context: RunContext) -> dict[str, Any]:
    """
    Return the resolved options that a result depends on.

    The judge's address is the one that requests go to, whether given or taken from the
    environment. Options that only limit or pace the requests are left out, and so are those
    that the others make idle.

    Raises:
        InputError: for an unknown name or an impossible value.
    """
    options = autointerp_options(context)
    chosen = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in _LIMITS
    }
    if options.latents is not None:
        del chosen["n_latents"]
    if options.explainer == "judge":
        url = judge_config(context, options).url
        return {**chosen, "judge_base_url": url, "prompts": prompts_identity()}
    idle = ("judge_model", "judge_base_url", "judge_temperature", "save_logs")
    return {name: value for name, value in chosen.items() if name not in idle}


def check(context: RunContext) -> None:
    """
    Refuse what cannot work before anything is loaded; the judge's server is left alone.

    Raises:
        InputError: for options, SAEs, text or address that nothing could run with, and for
            a missing key.
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
        judge_config(context, options)
        read_key()


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
