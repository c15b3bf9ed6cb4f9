"""FreqSAE: a standard L1 against beta .1, .2, .5."""

from __future__ import annotations

from collections.abc import Sequence

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
    Published,
    Scale,
    Stage,
    Study,
    paper_plan,
    paper_sweep,
    small_sweep,
)
from eval_recipes.studies.framework.verdicts import Claim
from saereg_plugin.presets import freq_sae
from saereg_plugin.sweeps import SweepConfig

BETAS = (0.1, 0.2, 0.5)
OVER_1 = Column("core", "misc_metrics/freq_over_1_percent", "latents firing over 1 %")
OVER_10 = Column(
    "core", "misc_metrics/freq_over_10_percent", "latents firing over 10 %"
)

_SMALL_TOKENS = 614_400
_SMALL_BATCH = 1024
_SMALL_D_SAE = 1152


def groups(d_in: int, d_sae: int, *, warm_up: int) -> Groups:
    """Return the standard SAE (beta 0: a plain L1 of the same lambda) and the betas."""
    betas = {"standard": 0.0} | {f"beta{beta:g}": beta for beta in BETAS}
    return {
        name: freq_sae(beta=beta, beta_warm_up_steps=warm_up).sae_fields(
            d_in=d_in, d_sae=d_sae
        )
        for name, beta in betas.items()
    }


def _small(_: pd.DataFrame) -> SweepConfig:
    # beta rises over the paper's share of the steps: 1000 of 9765
    warm_up = _SMALL_TOKENS // _SMALL_BATCH * 1000 // 9765
    return small_sweep(
        groups(D_IN, _SMALL_D_SAE, warm_up=warm_up),
        tokens=_SMALL_TOKENS,
        batch_size=_SMALL_BATCH,
        lr_decay_fraction=0.0,
    )


def _paper(_: pd.DataFrame) -> SweepConfig:
    preset = freq_sae()
    return paper_sweep(preset, groups(preset.d_in, preset.d_sae, warm_up=1000))


def _plan(scale: Scale) -> Plan:
    if scale == "small":
        return Plan(
            stages=(Stage("saes", _small),),
            settings="SmolLM2-135M-Instruct, blocks.2.hook_resid_post, d_sae 1,152, 614,400 tokens "
            "in batches of 1,024, lr 1e-3, lambda .04 sqrt(d_in) = .96.",
        )
    return paper_plan(
        "Gemma-2-2B, blocks.19.hook_resid_post, d_sae 2,304, 20M tokens.",
        Stage("saes", _paper, evals=("core", "sparse_probing", "absorption")),
        llm_dtype="bfloat16",
    )


def _claims(_: Scale) -> Sequence[Claim]:
    found: list[Claim] = []
    for beta in BETAS:
        group = f"beta{beta:g}"
        found += [
            OVER_10.claim(group, "lower", "standard", beside=L0),
            OVER_1.claim(group, "lower", "standard", beside=L0),
            KL_SCORE.claim(group, "not_lower", "standard", margin=0.01, beside=L0),
            VARIANCE.claim(group, "not_lower", "standard", margin=0.01, beside=L0),
            L0.claim(group, "lower", "standard"),
        ]
    return found


STUDY = Study(
    name="frequency-weighted",
    paper="FreqSAE",
    summary="A ReLU SAE with a plain L1 against one whose L1 grows with how often a latent fires.",
    plan=_plan,
    columns=(
        *(VARIANCE, L0, ALIVE, OVER_1, OVER_10, KL_SCORE, CE_SCORE),
        *(PROBING, ABSORPTION),
    ),
    claims=_claims,
    published=lambda _: tuple(
        Published(
            f"beta{beta:g}",
            "KL score",
            0.9972,
            "of which beta is not known; the paper calls it KL divergence, it is SAEBench's score "
            "(Gemma-2-2B, layer 19)",
        )
        for beta in BETAS
    ),
    notes=(
        "Model, layer, width and tokens are smaller, the learning rate higher to match, and beta "
        "rises over the same share of the steps.",
        "The standard SAE is the same loss with beta 0.",
        "A beta above 0 is also a stronger L1, so L0 may fall; each statement gives both L0 and "
        "whether they are equal.",
    ),
)
