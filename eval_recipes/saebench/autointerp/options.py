"""Settings of autointerp, and what follows from them alone."""

from __future__ import annotations

import hashlib
import inspect
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.main import AutoInterp

from eval_recipes.chat.options import IDENTITY, ChatOptions
from eval_recipes.results.subject import SubjectFacts
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.data import HUB_DATASET, hook_layer
from saereg_plugin.errors import InputError
from saereg_plugin.sources.assets import require_hub_repo

EVAL = "autointerp"

LatentId = Annotated[int, Field(ge=0)]

Explainer = Literal["judge", "tokens", "n2g"]

IDLE_WITHOUT_JUDGE = IDENTITY | {"save_logs"}
"""Settings that decide nothing without a judge."""


@dataclass(kw_only=True)
class AutoInterpOptions(ChatOptions):
    """
    Settings, ``RunContext.options["autointerp"]``.

    What upstream shows a judge (15 examples to explain, 14 to score, 10 tokens on either
    side) is as upstream has it.
    """

    n_latents: int = Field(default=100, ge=2)
    """Latents, drawn among those alive enough (upstream and published: 1000)."""

    latents: tuple[LatentId, ...] | None = Field(default=None, min_length=2)
    """The latents themselves, instead of a draw; upstream's standard deviation needs two."""

    total_tokens: int = Field(default=262_144, ge=1)
    """Tokens in which examples are looked for (upstream: 2,000,000)."""

    llm_context_size: int = Field(default=128, ge=22)
    """Tokens in one context, as upstream; not the SAE's own."""

    dead_latent_threshold: float = Field(default=15, ge=0, allow_inf_nan=False)
    """Activations that a latent needs to be drawn, as upstream."""

    dataset: Literal["heldout", "hub"] = "heldout"
    """Held-out text of the run's corpus, or the hub set that upstream uses."""

    explainer: Explainer = "judge"
    """A language model; or the token explainer or N2G, which need no server."""

    save_logs: bool = False
    """Keep upstream's log of each latent, which repeats the prompts with their text."""


def text_name(context: RunContext, options: AutoInterpOptions) -> str:
    """Return which text the latents are explained on."""
    return HUB_DATASET if options.dataset == "hub" else f"{context.corpus}/heldout"


def is_as_published(options: AutoInterpOptions) -> bool:
    """Return whether everything that moves a score is as in SAEBench's published ones."""
    theirs = AutoInterpEvalConfig()
    return (
        (options.dataset, options.explainer) == ("hub", "judge")
        and options.latents is None
        and options.judge_model == AutoInterpOptions().judge_model
        and options.judge_temperature is None
        and options.total_tokens == theirs.total_tokens
        and options.llm_context_size == theirs.llm_context_size
        and options.dead_latent_threshold == theirs.dead_latent_threshold
    )


def explainer_prompts_identity() -> str:
    """Return a hash of upstream's code that writes the prompts of explainer and scorer."""
    makers = (AutoInterp.get_generation_prompts, AutoInterp.get_scoring_prompts)
    text = "".join(inspect.getsource(maker) for maker in makers)
    return hashlib.sha256(text.encode()).hexdigest()


def check_data(options: AutoInterpOptions, data: str) -> None:
    """
    Refuse the hub's text in a run on embedded data, or where the hub cannot be reached.

    Raises:
        InputError: naming the option.
    """
    if options.dataset != "hub":
        return
    if data != "hub":
        raise InputError(
            f"{EVAL} option 'dataset' is 'hub', but the run's data are {data!r}; expected "
            "'heldout', or a run on data of the hub."
        )
    require_hub_repo(
        HUB_DATASET, kind="dataset", advice=f"Set {EVAL} option 'dataset' to 'heldout'."
    )


def check_facts(facts: SubjectFacts, options: AutoInterpOptions) -> None:
    """
    Refuse an SAE on a single head, or with too few latents.

    Raises:
        InputError: naming the SAE.
    """
    if facts.hook_name:
        hook_layer(facts.hook_name)
    if facts.hook_head_index is not None:
        raise InputError(
            f"SAE {facts.sae_id!r} reads a single head, which {EVAL} cannot; expected an "
            "SAE on a whole hook."
        )
    if options.latents:
        facts.require_latents(max(options.latents) + 1, eval=EVAL, option="latents")
    else:
        facts.require_latents(options.n_latents, eval=EVAL, option="n_latents")
