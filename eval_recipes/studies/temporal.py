"""TemporalSAE: three baselines and the paper's four runs, on tokens in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from eval_recipes.studies.framework.definition import (
    ABSORPTION,
    ALIVE,
    CE_SCORE,
    D_IN,
    KL_SCORE,
    L0,
    PROBING,
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
from eval_recipes.studies.framework.verdicts import Claim, Direction
from saereg_plugin.presets import temporal_sae
from saereg_plugin.sweeps import SweepConfig

CHANGE = Column("latents", "figures/token_change", "token change")
SUPPORT = Column("latents", "figures/support_change", "support change")

RUNS = ("temporal", "+clipping", "+resampling", "+gradient-scaling")
"""The paper's four runs; each has what the one before it has."""


def groups(d_in: int, d_sae: int, *, k: int) -> Groups:
    """
    Return baselines and runs.

    The baselines have the temporal penalty at coefficient 0, which changes no weight but
    leaves position 0 out of training as in the runs.
    """

    def fields(**switches: Any) -> dict[str, Any]:
        off = {"clipping": False, "resampling": False, "gradient_scaling": False}
        preset = temporal_sae(**{**off, **switches})
        return preset.sae_fields(d_in=d_in, d_sae=d_sae)

    standard = fields(coefficient=0.0)
    bare = {
        "d_sae": d_sae,
        "regularizers": standard["regularizers"],
        "decoder_constraint": "unit_norm",
        "normalize_activations": standard["normalize_activations"],
    }
    found: dict[str, dict[str, Any]] = {
        "standard": standard,
        "topk": {"architecture": "regularized_topk", "k": k, **bare},
        "jumprelu": {"architecture": "regularized_jumprelu", **bare},
    }
    switches: dict[str, bool] = {}
    for name, switch in zip(RUNS, (None, "clipping", "resampling", "gradient_scaling")):
        if switch is not None:
            switches[switch] = True
        found[name] = fields(**switches)
    return found


def _small(_: pd.DataFrame) -> SweepConfig:
    order = temporal_sae().run
    return small_sweep(
        groups(D_IN, 1536, k=32),
        # not a multiple of 100 steps: latents resampled in the last one would be raw
        tokens=350 * 1024,
        batch_size=1024,
        exclude_special_tokens=order.exclude_special_tokens,
        mixing_fraction=order.mixing_fraction,
        disable_concat_sequences=order.disable_concat_sequences,
        lr_decay_fraction=0.0,
    )


def _paper(_: pd.DataFrame) -> SweepConfig:
    preset = temporal_sae()
    return paper_sweep(preset, groups(preset.d_in, preset.d_sae, k=64))


def _plan(scale: Scale) -> Plan:
    if scale == "small":
        return Plan(
            stages=(Stage("saes", _small),),
            settings="SmolLM2-135M-Instruct, blocks.2.hook_resid_post, d_sae 1,536, 358,400 tokens "
            "in order in batches of 1,024, one document a context, lr 1e-3, position 0 left out of training.",
        )
    return paper_plan(
        "Gemma-2B, blocks.12.hook_resid_post, d_sae 16,384, 10M tokens in order, one document a "
        "context.",
        Stage("saes", _paper, evals=("core", "sparse_probing", "absorption")),
        llm_dtype="bfloat16",
    )


def _claims(scale: Scale) -> Sequence[Claim]:
    def claim(
        column: Column, group: str, direction: Direction, other: str, **rest: Any
    ) -> Claim:
        # every run has the same L1, which does not give the same L0
        return column.claim(group, direction, other, beside=L0, **rest)

    last = "+gradient-scaling"
    found = [
        claim(CHANGE, "temporal", "lower", "standard", source="paper"),
        claim(SUPPORT, "temporal", "lower", "standard", source="paper"),
        claim(CHANGE, "temporal", "lower", "topk"),
        claim(CHANGE, "temporal", "lower", "jumprelu"),
        claim(ALIVE, "+resampling", "higher", "+clipping", source="paper"),
        claim(ALIVE, last, "higher", "+resampling", source="paper"),
        claim(VARIANCE, "temporal", "not_lower", "standard", margin=0.01),
        claim(VARIANCE, last, "not_lower", "standard", margin=0.01),
    ]
    if scale == "paper":
        # SAEBench's sign: less absorption is better
        found.append(claim(ABSORPTION, last, "lower", "standard"))
    return found


STUDY = Study(
    name="temporal",
    paper="TemporalSAE",
    summary="Whether a penalty on the change between neighbouring tokens makes latents steadier, "
    "and what clipping, resampling and gradient scaling add.",
    plan=_plan,
    columns=(
        *(VARIANCE, L0, ALIVE, CHANGE, SUPPORT, KL_SCORE, CE_SCORE),
        *(PROBING, ABSORPTION),
    ),
    claims=_claims,
    notes=(
        "Model, layer, width and tokens are smaller and the learning rate higher to match; the "
        "steps of resampling and all constants are the paper's.",
        "The paper reads a higher absorption score as better; SAEBench, and this table, as worse.",
        "Each context is the beginning of one document, so that no pair of tokens spans two.",
        "JumpReLU has SAELens' default L0 coefficient. Nothing sets L0 equal between architectures or "
        "runs; each statement gives both L0 and whether they are equal.",
        "SAELens calls a latent dead after 1,000 steps, more than this run has: AuxK does not act.",
    ),
)
