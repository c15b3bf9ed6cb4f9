"""VASAE: TopK with and without the pull to token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from eval_recipes.studies.framework.definition import (
    ALIVE,
    CE_SCORE,
    D_IN,
    L0,
    VARIANCE,
    Column,
    Groups,
    Plan,
    Scale,
    Stage,
    Study,
    paper_plan,
    paper_sweep,
    small_sweep,
)
from eval_recipes.studies.framework.verdicts import Claim, Source
from saereg_plugin.presets import vasae
from saereg_plugin.sweeps import SweepConfig

ALIGNED = Column("vocabulary", "vocabulary/aligned_fraction", "aligned share")
COSINE = Column("vocabulary", "vocabulary/mean_max_cos", "cosine to nearest token")
COVERAGE = Column("vocabulary", "vocabulary/token_coverage", "token coverage")

PAPER_LAYERS = (0, 6, 11)
PAPER_COEFFICIENTS = (1e-4, 5e-3)
"""For GPT-2 and for Llama."""
SMALL_COEFFICIENTS = (*PAPER_COEFFICIENTS, 5e-1, 5.0)
"""The paper's, and a hundred and a thousand times the second."""

_EVALS = ("core", "vocabulary")


def groups(
    coefficients: Sequence[float], *, d_in: int, d_sae: int, suffix: str = ""
) -> Groups:
    """Return plain TopK and one group for each of the paper-scale coefficients."""
    found: dict[str, dict[str, Any]] = {}
    for value in coefficients:
        preset = vasae(coefficient=value)
        found[f"anchor{value:g}{suffix}"] = preset.sae_fields(d_in=d_in, d_sae=d_sae)
    bare = vasae().sae_fields(d_in=d_in, d_sae=d_sae)
    return {f"none{suffix}": {**bare, "regularizers": []}, **found}


def _small(_: pd.DataFrame) -> SweepConfig:
    found = groups(SMALL_COEFFICIENTS, d_in=D_IN, d_sae=1536)
    # b_dec of unscaled activations is too far away for a few hundred steps
    started = {name: {**fields, "b_dec_init": "mean"} for name, fields in found.items()}
    return small_sweep(started)


def _paper(layer: int) -> Callable[[pd.DataFrame], SweepConfig]:
    preset = vasae(layer=layer)
    found = groups(
        (1e-4,), d_in=preset.d_in, d_sae=preset.d_sae, suffix=f"-layer{layer}"
    )
    return lambda _: paper_sweep(preset, found)


def _plan(scale: Scale) -> Plan:
    if scale == "small":
        return Plan(
            stages=(Stage("saes", _small, evals=_EVALS),),
            settings="SmolLM2-135M-Instruct, blocks.2.hook_resid_post, d_sae 1,536, k 32, vocabulary "
            "of 49,152, 307,200 tokens in batches of 1,024, lr 1e-3, activations unscaled.",
        )
    return paper_plan(
        "GPT-2 small, residual stream of layers 0, 6 and 11, d_sae 50,257, k 32, lambda 1e-4.",
        *(
            Stage(f"layer{layer}", _paper(layer), evals=_EVALS)
            for layer in PAPER_LAYERS
        ),
    )


def _claims(scale: Scale) -> Sequence[Claim]:
    pairs: list[tuple[str, str, Source]]
    if scale == "small":
        pairs = [
            (
                f"anchor{value:g}",
                "none",
                "paper" if value in PAPER_COEFFICIENTS else "adapted",
            )
            for value in SMALL_COEFFICIENTS
        ]
    else:
        pairs = [
            (f"anchor0.0001-layer{layer}", f"none-layer{layer}", "paper")
            for layer in PAPER_LAYERS
        ]
    found: list[Claim] = []
    for group, other, source in pairs:
        found += [
            column.claim(group, "higher", other, source=source)
            for column in (ALIGNED, COSINE, COVERAGE)
        ]
        found.append(VARIANCE.claim(group, "not_lower", other, margin=0.01))
    return found


STUDY = Study(
    name="vocabulary",
    paper="arXiv 2606.27941",
    summary="Whether decoder rows can be pulled to token embeddings (cosine of .8 or more) at what "
    "cost in explained variance.",
    plan=_plan,
    columns=(VARIANCE, L0, ALIVE, ALIGNED, COSINE, COVERAGE, CE_SCORE),
    claims=_claims,
    notes=(
        "The dictionary is narrower than the vocabulary, so few tokens can be covered; the penalty "
        "is a mean over latents, which pulls each of fewer latents the more.",
        "b_dec starts at the mean of the first batch.",
        "The third and fourth coefficient are ours.",
        "SAELens calls a latent dead after 1,000 steps, more than this run has: AuxK does not act.",
    ),
)
