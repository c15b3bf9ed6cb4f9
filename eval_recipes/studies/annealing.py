"""Schedules of the weight penalty: constant, warm-up, annealed to 0, cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import over_pairs
from eval_recipes.studies.framework.definition import (
    ALIVE,
    D_IN,
    L0,
    MEAN_MAX_COS,
    SHARED,
    SHARED_ALIVE,
    VARIANCE,
    Plan,
    Scale,
    Stage,
    Study,
    paper_plan,
    paper_sweep,
    small_sweep,
)
from eval_recipes.studies.framework.verdicts import Claim
from eval_recipes.width_control.equal_variance import differences_by_pair
from eval_recipes.width_control.result_groups import (
    Comparison,
    ResultGroup,
    interval_fields,
    read_groups,
)
from saereg_plugin.presets import weight_regularized_topk
from saereg_plugin.sweeps import SweepConfig

CONSTANT = "constant"
SCHEDULES = ("warm-up", "to-zero-at-half", "cosine")
LAMBDA = 1e-4
"""The paper's, in its units; every schedule starts from it or rises to it."""
MULTIPLES = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Of the constant coefficients between which explained variance is interpolated."""
MOST_LOST = 0.2
"""Share of the constant's agreement that a schedule may lose and still keep it; ours."""
COMPARED = ("shared", "shared_alive", "mean_max_cos")
KIND = "schedule - constant at equal explained variance"
SEEDS: tuple[int, ...] = (0, 1, 2, 3, 4)

_TOKENS = 307_200
_BATCH = 1024
_STEPS = _TOKENS // _BATCH
_D_SAE = 1024


def schedule(name: str, steps: int) -> dict[str, Any]:
    """
    Return the fields of a schedule over a run of ``steps``.

    ``warm-up`` rises from 0 over the first half and stays; ``to-zero-at-half`` falls linearly
    to 0 over the first half and stays there; ``cosine`` falls to 0 over the whole run.
    """
    half = max(1, steps // 2)
    falling = {"anneal_start": 0, "final_coefficient": 0.0}
    known: Mapping[str, dict[str, Any]] = {
        CONSTANT: {},
        "warm-up": {"warm_up_steps": half},
        "to-zero-at-half": {"anneal": "linear", "anneal_steps": half, **falling},
        "cosine": {"anneal": "cosine", "anneal_steps": steps, **falling},
    }
    return known[name]


def constant(multiple: float) -> str:
    """Return the name of a group with a constant coefficient."""
    if multiple == 0:
        return "none"
    return CONSTANT if multiple == 1 else f"{CONSTANT}-x{multiple:g}"


def groups(
    *, d_in: int, d_sae: int, k: int, steps: int, k_annealing_steps: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return the constants and the schedules: TopK, unit norm, coupled L2 on both matrices."""

    def fields(multiple: float, name: str = CONSTANT) -> dict[str, Any]:
        preset = weight_regularized_topk(
            k=k,
            penalty="l2" if multiple else "none",
            coefficient=LAMBDA * (multiple or 1),
            k_annealing_steps=k_annealing_steps,
        )
        found = preset.sae_fields(d_in=d_in, d_sae=d_sae)
        chosen = schedule(name, steps)
        if chosen:
            found["regularizers"] = [
                {**regularizer, "schedule": chosen}
                for regularizer in found["regularizers"]
            ]
        return found

    return {
        **{constant(multiple): fields(multiple) for multiple in MULTIPLES},
        **{name: fields(1.0, name) for name in SCHEDULES},
    }


def at_equal_variance(results: Path) -> list[Comparison]:
    """
    Return each schedule minus the constant coefficients at its explained variance.

    In every pair of seeds the constants' figure is interpolated, linearly, to the explained
    variance of the schedule. The interval is the jackknife over seeds.
    """
    by_name = {group.group: group for group in read_groups(results)}
    family = [by_name[constant(m)] for m in MULTIPLES if constant(m) in by_name]
    return [
        compared(family, by_name[name], metric)
        for name in SCHEDULES
        if name in by_name
        for metric in COMPARED
    ]


def compared(
    family: Sequence[ResultGroup], group: ResultGroup, metric: str
) -> Comparison:
    """Return ``group`` minus the family of constants in one figure, see ``at_equal_variance``."""
    values = {
        pair: -value
        for pair, value in differences_by_pair(family, group, metric).items()
    }
    about: dict[str, Any] = {
        "kind": KIND,
        "group": group.group,
        "other": CONSTANT,
        "metric": metric,
        "values": values,
    }
    missing = len(group.pairs) - len(values)
    if not values:
        why = "in no pair of seeds do the constants reach its explained variance"
        return Comparison(**about, reason=why)
    found = over_pairs(values)
    if missing:
        why = f"{missing} of {len(group.pairs)} pairs of seeds have no value at its explained variance"
        found = Interval(found.value, None, None, len(values), why)
    variance = group.explained_variance
    return Comparison(
        **about,
        **interval_fields(found, "seed pairs"),
        explained_variance=None if variance is None else variance.value,
    )


def _small(_: pd.DataFrame) -> SweepConfig:
    return small_sweep(
        groups(
            d_in=D_IN,
            d_sae=_D_SAE,
            k=32,
            steps=_STEPS,
            k_annealing_steps=max(1, _STEPS // 100),
        ),
        seeds=SEEDS,
        tokens=_TOKENS,
        batch_size=_BATCH,
        # the paper calls a latent dead after a fifth of its tokens
        dead_feature_window=_STEPS // 5,
    )


def _paper(_: pd.DataFrame) -> SweepConfig:
    preset = weight_regularized_topk()
    run = preset.run
    made = groups(d_in=preset.d_in, d_sae=preset.d_sae, k=80, steps=run.steps)
    return replace(paper_sweep(preset, made), seeds=SEEDS)


def _plan(scale: Scale) -> Plan:
    stage = partial(Stage, "saes", evals=("cross_seed",), compare=at_equal_variance)
    if scale == "small":
        return Plan(
            stages=(stage(_small),),
            settings=f"SmolLM2-135M-Instruct, blocks.2.hook_resid_post, d_sae {_D_SAE:,}, k 32, "
            f"{_TOKENS:,} tokens in batches of 1,024, lr 1e-3, the paper's lambda 1e-4 (times d_in).",
        )
    return paper_plan(
        "pythia-70m-deduped, blocks.3.hook_resid_post, d_sae 16,384, k 80, 50M tokens of the Pile, "
        "lambda 1e-4 (times d_in).",
        stage(_paper),
    )


def _claims(_: Scale) -> Sequence[Claim]:
    falling = ("to-zero-at-half", "cosine")
    return [
        *(ALIVE.claim(name, "higher", CONSTANT) for name in SCHEDULES),
        *(VARIANCE.claim(name, "higher", CONSTANT) for name in falling),
        *(VARIANCE.claim(name, "not_lower", "none", margin=0.01) for name in SCHEDULES),
        *(SHARED.claim(name, "higher", "none") for name in SCHEDULES),
        *(
            SHARED.claim(name, "not_lower", CONSTANT, margin_share=MOST_LOST)
            for name in falling
        ),
    ]


STUDY = Study(
    name="annealing",
    paper="arXiv 2603.04198",
    summary="Whether a schedule of the weight penalty keeps the agreement of seeds and gives back "
    "alive latents and explained variance.",
    plan=_plan,
    columns=(VARIANCE, L0, ALIVE, SHARED, SHARED_ALIVE, MEAN_MAX_COS),
    claims=_claims,
    notes=(
        "The paper trains with a constant coefficient and names annealing as future work: schedules "
        "and statements are ours.",
        "Model, layer, width, k and tokens are smaller and the learning rate higher to match.",
        "Over the run the mean coefficient is 3/4 of lambda with the warm-up, 1/4 with to-zero-at-half "
        "and 1/2 with the cosine; the constants at 1/4 and 1/2 have the same mean.",
        "Shared latents are also compared at equal explained variance, by interpolation between the "
        "constants in every pair of seeds.",
    ),
)
