"""The output of one SAE, from its table of texts and what was measured beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from eval_recipes.results.files import BaseFields, unstructured
from eval_recipes.results.metrics import flat
from eval_recipes.results.subject import Subject
from eval_recipes.statistics.seeds import Interval, bootstrap_mean_interval
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.results.output import (
    ContrastMetrics,
    FluencyMetrics,
    JudgeMetrics,
    LatentMetrics,
    SteeringEvalOutput,
    SteeringMetricCategories,
    SteeringPoint,
    StrengthMetrics,
)
from eval_recipes.steering.results.texts import results_of
from eval_recipes.steering.select.candidates import Candidates, Explained
from eval_recipes.steering.stats.figures import (
    Counts,
    Links,
    Rates,
    figure_of,
    fluency_loss,
    links,
    rates,
)
from eval_recipes.steering.stats.logistic import Coefficient, LogisticFit
from eval_recipes.steering.stats.steered_contrast import ContrastReport

JUDGES = ("embedding", "embedding_published", "log_probability", "chat")


@dataclass(frozen=True)
class Measured:
    """
    Everything that was measured of one SAE.

    Attributes:
        texts: its table of texts.
        stored: which file holds them.
        judges: what decides each judge's verdicts.
        candidates: chosen latents.
        explained: those with an explanation.
        without_strength: latents without a strength, by amount.
        norm: median residual norm.
        contrast: contrastive selection, if it was made.
        extra: more for the unstructured part.
    """

    texts: pd.DataFrame
    stored: dict[str, Any]
    judges: Mapping[Any, dict[str, Any]]
    candidates: Candidates
    explained: Explained
    without_strength: Mapping[float, tuple[int, ...]]
    norm: Interval
    contrast: ContrastReport | None
    extra: dict[str, Any]


def build_output(
    measured: Measured, subject: Subject, base: BaseFields, config: SteeringEvalConfig
) -> SteeringEvalOutput:
    """Return the result of one SAE; the first strength is the headline's."""
    headline = config.amounts[0]
    seed = config.random_seed
    judged = {name: _judge(measured, name, headline, config) for name in config.judges}
    reasons = {name: why for name, (_, why) in judged.items() if why}
    losses = {
        name: fluency_loss(measured.texts, arm, headline, seed=seed)
        for name, arm in (("loss", "steered"), ("loss_random", "random"))
    }
    return SteeringEvalOutput(
        **base,
        eval_config=config,
        eval_result_metrics=SteeringMetricCategories(
            **{
                name: judged[name][0] if name in judged else JudgeMetrics(**nothing())
                for name in JUDGES
            },
            latents=_latents(measured, headline, seed),
            strength=StrengthMetrics(
                **flat({"norm": measured.norm}),
                strength=_strength(measured.texts, headline),
                ratio=_ratio(measured, headline),
            ),
            fluency=FluencyMetrics(**flat(losses)),
            contrast=_contrast(measured.contrast),
        ),
        eval_result_details=[
            _point(measured, name, amount, config)
            for name in config.judges
            for amount in config.amounts
        ],
        eval_result_unstructured=unstructured(
            subject,
            texts=measured.stored,
            judges={name: dict(about) for name, about in measured.judges.items()},
            latents_without_explanation=list(measured.explained.without),
            latents_without_strength={
                str(amount): list(ids)
                for amount, ids in measured.without_strength.items()
            },
            near_ties=_near_ties(measured.texts),
            why_there_is_no_figure=reasons,
            contrast=readable(measured.contrast),
            **measured.extra,
        ),
    )


def _judge(
    measured: Measured, name: str, amount: float, config: SteeringEvalConfig
) -> tuple[JudgeMetrics, dict[str, str]]:
    found = links(measured.texts, name, amount, seed=config.random_seed)
    linked, reasons = link_fields(found)
    return JudgeMetrics(**_rates(measured, name, amount, config), **linked), reasons


def _rates(
    measured: Measured, name: str, amount: float, config: SteeringEvalConfig
) -> dict[str, Any]:
    found = rates(
        measured.texts,
        name,
        amount,
        max_ratio=config.max_perplexity_ratio,
        seed=config.random_seed,
    )
    threshold = measured.judges[name].get("threshold") or {}
    return {**rate_fields(found), "threshold": threshold.get("value")}


def _point(
    measured: Measured, name: str, amount: float, config: SteeringEvalConfig
) -> SteeringPoint:
    loss = fluency_loss(measured.texts, "steered", amount, seed=config.random_seed)
    return SteeringPoint(
        **_rates(measured, name, amount, config),
        **flat({"loss": loss}),
        judge=name,
        amount=amount,
        strength=_strength(measured.texts, amount),
        ratio=_ratio(measured, amount),
    )


def _latents(measured: Measured, amount: float, seed: int) -> LatentMetrics:
    rows = _steered(measured.texts, amount).drop_duplicates("latent")
    scores = rows["interp_score"].dropna().to_numpy(dtype=np.float64)
    interval = bootstrap_mean_interval([scores], seed=seed) if len(scores) else None
    return LatentMetrics(
        **flat({"interp_score": interval}),
        candidates=len(measured.candidates.ids),
        pool=measured.candidates.pool,
        without_explanation=len(measured.explained.without),
        without_strength=len(measured.without_strength.get(amount, ())),
        steered=len(rows),
    )


def _contrast(found: ContrastReport | None) -> ContrastMetrics:
    first = found.latents[0] if found is not None and found.latents else None
    return ContrastMetrics(
        **flat(
            {
                "auroc": first.measured if first else None,
                "probe_accuracy": found.probe_accuracy if found else None,
                "change": first.steered[0].change if first and first.steered else None,
                "change_random": (
                    first.random[0].change if first and first.random else None
                ),
            }
        )
    )


def _steered(texts: pd.DataFrame, amount: float) -> pd.DataFrame:
    return texts.loc[(texts["arm"] == "steered") & (texts["amount"] == amount)]


def _strength(texts: pd.DataFrame, amount: float) -> float | None:
    by_latent = _steered(texts, amount).drop_duplicates("latent")["strength"]
    return float(by_latent.median()) if len(by_latent) else None


def _ratio(measured: Measured, amount: float) -> float | None:
    strength = _strength(measured.texts, amount)
    return None if strength is None else strength / measured.norm.value


def _near_ties(texts: pd.DataFrame) -> dict[str, int]:
    """Count pairs in which rounding might have turned a choice into another."""
    rows = results_of(texts)
    return {"pairs": int((rows["near_ties"] > 0).sum()), "of": len(rows)}


def rate_fields(found: Rates) -> dict[str, Any]:
    return {
        **flat(
            {
                "success": found.success,
                "success_fluent": found.fluent,
                "unsteered": found.unsteered,
                "random": found.random,
                "over_unsteered": found.over_unsteered,
                "over_random": found.over_random,
            }
        ),
        **_count_fields(found),
    }


def _count_fields(found: Rates) -> dict[str, int]:
    """Return ``pairs`` and so on of the steered arm, ``random_pairs`` and so on of controls."""
    fields: dict[str, int] = {}
    for name, front in (
        ("steered", ""),
        ("unsteered", "unsteered_"),
        ("random", "random_"),
    ):
        counts = found.counts.get(name, Counts())
        fields |= {
            f"{front}pairs": counts.pairs,
            f"{front}pairs_distinct": counts.distinct,
            f"{front}pairs_without_verdict": counts.without_verdict,
        }
    return fields


def link_fields(found: Links) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of ``LinkMetrics``, and why those without a value have none."""
    interp, stability = found.interp, found.stability
    spearman = figure_of(interp.spearman if interp else None)
    biserial = figure_of(interp.point_biserial if interp else None)
    fits: dict[str, tuple[LogisticFit | None, str]] = {
        "slope": (interp.slope if interp else None, "score"),
        "stability_slope": (stability.alone if stability else None, "stability"),
        "stability_slope_adjusted": (
            stability.adjusted if stability else None,
            "stability",
        ),
    }
    reasons: dict[str, str | None] = {
        "spearman": interp.spearman.reason if interp else "no interp score",
        "point_biserial": interp.point_biserial.reason if interp else "no interp score",
    }
    intervals: dict[str, Interval | None] = {
        "spearman": spearman,
        "point_biserial": biserial,
    }
    slope: Coefficient | None = None
    for name, (fit, predictor) in fits.items():
        coefficient = fit.coefficients.get(predictor) if fit else None
        intervals[name] = fit.interval(predictor) if fit else None
        reasons[name] = fit.reason if fit else "no latent has what it is fitted on"
        if name == "slope":
            slope = coefficient
    linked = flat(intervals) | {
        "slope_se": slope.se if slope else None,
        "slope_se_clustered": slope.se_clustered if slope else None,
    }
    return linked, {name: why for name, why in reasons.items() if why}


def nothing() -> dict[str, Any]:
    """Return the fields of a judge that was not asked."""
    linked, _ = link_fields(Links(None, None))
    return {**rate_fields(Rates()), **linked, "threshold": None}


def readable(value: Any) -> Any:
    """Return dataclasses and named tuples, such as intervals, as nested dicts."""
    if is_dataclass(value):
        return {
            item.name: readable(getattr(value, item.name)) for item in fields(value)
        }
    as_dict: Any = getattr(value, "_asdict", None)
    if as_dict is not None:
        return readable(as_dict())
    if isinstance(value, Mapping):
        return {str(name): readable(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [readable(item) for item in value]
    return value
