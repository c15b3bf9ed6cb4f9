"""Weight regularisation of language-model SAEs, compared across seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pandas as pd

from eval_recipes.studies.framework.definition import (
    CE_SCORE,
    D_IN,
    L0,
    MEAN_MAX_COS,
    SHARED,
    SHARED_ALIVE,
    VARIANCE,
    Column,
    Plan,
    Scale,
    Stage,
    Study,
    paper_plan,
    paper_sweep,
    small_sweep,
)
from eval_recipes.studies.framework.verdicts import Claim
from saereg_plugin.presets import weight_regularized_topk
from saereg_plugin.presets.weight_regularization import Penalty
from saereg_plugin.sweeps import SweepConfig

PAPER_KS = (40, 80, 150, 320)
PENALTIES: tuple[Penalty, ...] = ("none", "l1", "l2")
ALIVE = Column("cross_seed", "heldout/alive", "alive")
C_DEC = Column("cross_seed", "geometry/c_dec", "c_dec")

_SMALL_TOKENS = 307_200
_SMALL_BATCH = 1024
_SMALL_STEPS = _SMALL_TOKENS // _SMALL_BATCH


def fields(
    penalty: Penalty,
    k: int,
    *,
    d_in: int,
    d_sae: int,
    unit_norm: bool = True,
    decoupled: bool = False,
    k_annealing_steps: int | None = None,
) -> dict[str, Any]:
    """
    Return the fields of one group.

    A decoupled L2 does nothing to unit-norm rows and is refused: it is of the encoder alone.
    """
    preset = weight_regularized_topk(
        k=k,
        penalty=penalty,
        unit_norm=unit_norm,
        k_annealing_steps=k_annealing_steps,
    )
    found = preset.sae_fields(d_in=d_in, d_sae=d_sae)
    if decoupled:
        void = unit_norm and penalty == "l2"
        found["regularizers"] = [
            {
                **regularizer,
                "mode": "decoupled",
                "target": "encoder" if void else "both",
            }
            for regularizer in found["regularizers"]
        ]
    return found


def small_groups() -> dict[str, dict[str, Any]]:
    """Return seven groups: k 32, unit norm and coupled, and one factor changed at a time."""

    def small(penalty: Penalty, k: int = 32, **changes: Any) -> dict[str, Any]:
        return fields(
            penalty,
            k,
            d_in=D_IN,
            d_sae=1536,
            k_annealing_steps=max(1, _SMALL_STEPS // 100),
            **changes,
        )

    return {
        "none": small("none"),
        "l1": small("l1"),
        "l2": small("l2"),
        "l2-decoupled": small("l2", decoupled=True),
        "l2-free": small("l2", unit_norm=False),
        "none-k64": small("none", k=64),
        "l2-k64": small("l2", k=64),
    }


def paper_groups(k: int) -> dict[str, dict[str, Any]]:
    """Return the paper's grid at one k: penalties x decoder x mode."""
    preset = weight_regularized_topk()
    found: dict[str, dict[str, Any]] = {}
    for penalty, unit_norm, decoupled in product(
        PENALTIES, (True, False), (False, True)
    ):
        if penalty == "none" and decoupled:
            continue
        marks = ("" if unit_norm else "-free") + ("-decoupled" if decoupled else "")
        found[f"{penalty}-k{k}{marks}"] = fields(
            penalty,
            k,
            d_in=preset.d_in,
            d_sae=preset.d_sae,
            unit_norm=unit_norm,
            decoupled=decoupled,
        )
    return found


def _small(_: pd.DataFrame) -> SweepConfig:
    return small_sweep(
        small_groups(),
        tokens=_SMALL_TOKENS,
        batch_size=_SMALL_BATCH,
        # the paper calls a latent dead after a fifth of its tokens
        dead_feature_window=_SMALL_STEPS // 5,
    )


def _paper(k: int) -> Callable[[pd.DataFrame], SweepConfig]:
    return lambda _: paper_sweep(weight_regularized_topk(k=k), paper_groups(k))


def _plan(scale: Scale) -> Plan:
    evals = ("core", "cross_seed")
    if scale == "small":
        return Plan(
            stages=(Stage("saes", _small, evals=evals),),
            settings="SmolLM2-135M-Instruct, blocks.2.hook_resid_post, d_sae 1,536, 307,200 tokens "
            "in batches of 1,024, lr 1e-3, the paper's lambda 1e-4 (times d_in).",
        )
    return paper_plan(
        "pythia-70m-deduped, blocks.3.hook_resid_post, d_sae 16,384, 50M tokens of the "
        "Pile, lambda 1e-4 (times d_in).",
        *(Stage(f"k{k}", _paper(k), evals=evals) for k in PAPER_KS),
    )


def _claims(scale: Scale) -> Sequence[Claim]:
    if scale == "small":
        found = [
            *_against_none("l1", "none"),
            *_against_none("l2", "none"),
            *_against_none("l2-k64", "none-k64"),
        ]
        pairs = [("l2-free", "l2"), ("l2-decoupled", "l2")]
    else:
        found = [
            claim
            for k in PAPER_KS
            for penalty in ("l1", "l2")
            for claim in _against_none(f"{penalty}-k{k}", f"none-k{k}")
        ]
        pairs = [
            (f"l2-k{k}-{factor}", f"l2-k{k}")
            for k in PAPER_KS
            for factor in ("free", "decoupled")
        ]
    return found + [SHARED.claim(group, "lower", other) for group, other in pairs]


def _against_none(group: str, other: str) -> list[Claim]:
    return [
        *(
            column.claim(group, "higher", other, source="paper")
            for column in (SHARED, SHARED_ALIVE, MEAN_MAX_COS)
        ),
        VARIANCE.claim(group, "not_lower", other, margin=0.01),
        ALIVE.claim(group, "lower", other),
    ]


STUDY = Study(
    name="weight-regularization",
    paper="arXiv 2603.04198",
    summary="Whether a penalty on the weights makes SAEs of different seeds learn the same latents.",
    plan=_plan,
    columns=(
        *(VARIANCE, L0, ALIVE, CE_SCORE),
        *(SHARED, SHARED_ALIVE, MEAN_MAX_COS, C_DEC),
    ),
    claims=_claims,
    notes=(
        "Model, layer, width, k and tokens are smaller and the learning rate higher to match; one "
        "factor is varied at a time.",
        "A penalty that costs explained variance or latents can raise agreement by that alone: see "
        "the width-matched control ('saereg-bench train --match-alive').",
        "With fewer than five seeds figures of pairs (shared, shared of alive, mean max cos) have no "
        "interval over seeds, so no statement on them is decided: the differences of the pairs are "
        "listed instead.",
    ),
)
