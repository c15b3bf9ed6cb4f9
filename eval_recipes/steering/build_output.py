"""Table of texts and output of one SAE."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from eval_recipes.results.files import BaseFields, unstructured
from eval_recipes.results.metrics import flat
from eval_recipes.results.subject import Subject
from eval_recipes.saebench.autointerp.figures import Explanation
from eval_recipes.statistics.seeds import Interval, bootstrap_mean_interval
from eval_recipes.steering.facts.figures import (
    FactsMetrics,
    facts_fields,
    facts_summary,
)
from eval_recipes.steering.facts.measure import Measurement
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.judges.judge_trials import Judged
from eval_recipes.steering.judges.log_probability import Fluency
from eval_recipes.steering.judges.probe import ContrastReport
from eval_recipes.steering.options import JudgeName, SteeringEvalConfig
from eval_recipes.steering.output import (
    ContrastMetrics,
    FluencyMetrics,
    JudgeMetrics,
    LatentMetrics,
    SteeringEvalOutput,
    SteeringMetricCategories,
    SteeringPoint,
    StrengthMetrics,
)
from eval_recipes.steering.select.candidates import (
    Candidates,
    Explained,
    KnownStability,
    interp_score,
)
from eval_recipes.steering.stats.association import Figure
from eval_recipes.steering.stats.figures import (
    Counts,
    Links,
    Rates,
    figure_of,
    fluency_loss,
    links,
    rates,
)
from eval_recipes.steering.texts import COLUMNS, TEXTS, results_of

JUDGES: tuple[JudgeName, ...] = get_args(JudgeName)

_OF_JUDGE = {
    "score": pa.float64(),
    "success": pa.bool_(),
    "status": pa.string(),
    "reason": pa.string(),
}


def texts_table(
    judged: Judged,
    explanations: Mapping[int, Explanation],
    stability: KnownStability,
    prompts: Sequence[Prompt],
    subject: Subject,
) -> Any:
    """Return the ``pyarrow.Table`` of one SAE, a row per pair, arm by arm, calibration last."""
    rows: list[dict[str, Any]] = []
    shared_with = {
        trial.latent: json.dumps(dict(stability.partners[trial.latent]), sort_keys=True)
        for trial in judged.trials
        if trial.latent in stability.partners
    }
    unknown = Fluency(math.nan, math.nan)
    fluency = [*judged.fluency, *(unknown for _ in judged.calibration)]
    trials = [*judged.trials, *judged.calibration]
    for trial, fluent in zip(trials, fluency, strict=True):
        explanation = explanations.get(trial.latent)
        row: dict[str, Any] = {
            "latent": trial.latent,
            "explanation": explanation.text if explanation else None,
            "interp_score": interp_score(explanation) if explanation else None,
            "stability": stability.shares.get(trial.latent),
            "shared_with": shared_with.get(trial.latent),
            "arm": trial.arm,
            "amount": trial.amount,
            "strength": trial.strength,
            "prompt": prompts[trial.prompt].text,
            "repeat": trial.repeat,
            "original": trial.original.text,
            "text": trial.other.text,
            "original_perplexity": _known(fluent.original),
            "perplexity": _known(fluent.steered),
            "near_ties": trial.original.near_ties + trial.other.near_ties,
        }
        rows.append(row)
    kinds = dict(COLUMNS)
    for judge, said in judged.verdicts.items():
        learned = judged.calibration_verdicts.get(judge)
        verdicts = [*said, *(learned or [None] * len(judged.calibration))]
        kinds |= {f"{judge}_{name}": kind for name, kind in _OF_JUDGE.items()}
        for row, verdict in zip(rows, verdicts, strict=True):
            if verdict is not None:
                row |= {
                    f"{judge}_score": verdict.score,
                    f"{judge}_success": verdict.success,
                    f"{judge}_status": verdict.status.value,
                    f"{judge}_reason": verdict.reason or None,
                }
    arrays = {
        name: pa.array([row.get(name) for row in rows], kind)
        for name, kind in kinds.items()
    }
    return TEXTS.of(arrays, subject, judges=list(judged.verdicts))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Measured:
    """All measurements of one SAE."""

    texts: pd.DataFrame
    """Its table of texts."""
    stored: dict[str, Any]
    """Name and hash of the file of these texts."""
    judges: Mapping[Any, dict[str, Any]]
    """Everything that decides each judge's verdicts."""
    candidates: Candidates
    explained: Explained
    without_strength: Mapping[float, tuple[int, ...]]
    """Latents without a strength, by amount."""
    norm: Interval
    """Median residual norm."""
    contrast: ContrastReport | None
    """Contrastive selection, if it was made."""
    facts: Measurement | None
    """Dated facts, if there are any."""
    extra: dict[str, Any]
    """Further entries of the unstructured part."""


def build_output(
    measured: Measured, subject: Subject, base: BaseFields, config: SteeringEvalConfig
) -> SteeringEvalOutput:
    """Return the result of one SAE; the first strength is the headline's."""
    headline = config.amounts[0]
    seed = config.random_seed
    judged: dict[str, JudgeMetrics] = {}
    reasons: dict[str, dict[str, str]] = {}
    for name in config.judges:
        linked, why = link_fields(links(measured.texts, name, headline, seed=seed))
        rated = _rates(measured, name, headline, config)
        judged[name] = JudgeMetrics(**rated, **linked)
        if why:
            reasons[name] = why
    loss, loss_random = (
        fluency_loss(measured.texts, arm, headline, seed=seed)
        for arm in ("steered", "random")
    )
    rows = results_of(measured.texts)
    return SteeringEvalOutput(
        **base,
        eval_config=config,
        eval_result_metrics=SteeringMetricCategories(
            **{name: judged.get(name) or JudgeMetrics(**nothing()) for name in JUDGES},
            latents=_latents(measured, headline, seed),
            strength=StrengthMetrics(
                **flat({"norm": measured.norm}), **_strength(measured, headline)
            ),
            fluency=FluencyMetrics(**flat({"loss": loss, "loss_random": loss_random})),
            contrast=_contrast(measured.contrast),
            facts=FactsMetrics(**facts_fields(measured.facts, headline, seed)),
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
            # pairs in which rounding might have changed a choice
            near_ties={"pairs": int((rows["near_ties"] > 0).sum()), "of": len(rows)},
            why_there_is_no_figure=reasons,
            contrast=readable(measured.contrast),
            facts=facts_summary(measured.facts, config.amounts, seed),
            **measured.extra,
        ),
    )


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
        **_strength(measured, amount),
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
    steered, random = (first.steered, first.random) if first else ((), ())
    intervals = {
        "auroc": first and first.measured,
        "probe_accuracy": found and found.probe_accuracy,
        "change": steered[0].change if steered else None,
        "change_random": random[0].change if random else None,
    }
    return ContrastMetrics(**flat(intervals))


def _steered(texts: pd.DataFrame, amount: float) -> pd.DataFrame:
    return texts.loc[(texts["arm"] == "steered") & (texts["amount"] == amount)]


def _strength(measured: Measured, amount: float) -> dict[str, Any]:
    """Return the median strength over latents, and its ratio to the median norm."""
    rows = _steered(measured.texts, amount).drop_duplicates("latent")
    if rows.empty:
        return {"strength": None, "ratio": None}
    strength = float(rows["strength"].median())
    return {"strength": strength, "ratio": strength / measured.norm.value}


def rate_fields(found: Rates) -> dict[str, Any]:
    """Return the fields of ``SuccessMetrics``; controls' fields begin with the arm's name."""
    fields: dict[str, Any] = flat(
        {
            "success": found.success,
            "success_fluent": found.fluent,
            "unsteered": found.unsteered,
            "random": found.random,
            "over_unsteered": found.over_unsteered,
            "over_random": found.over_random,
        }
    )
    for arm in ("steered", "unsteered", "random"):
        front = "" if arm == "steered" else f"{arm}_"
        counts = found.counts.get(arm, Counts())
        fields |= {
            f"{front}pairs": counts.pairs,
            f"{front}pairs_distinct": counts.distinct,
            f"{front}pairs_without_verdict": counts.without_verdict,
        }
    return fields


def link_fields(found: Links) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of ``LinkMetrics``, and why some have no value."""
    interp, stability = found.interp, found.stability
    intervals: dict[str, Interval | None] = {}
    reasons: dict[str, str | None] = {}
    for name in ("spearman", "point_biserial"):
        figure: Figure | None = getattr(interp, name, None)
        intervals[name] = figure_of(figure)
        reasons[name] = figure.reason if figure else "no interp score"
    slope = interp.slope if interp else None
    fits = {
        "slope": (slope, "score"),
        "stability_slope": (stability and stability.alone, "stability"),
        "stability_slope_adjusted": (stability and stability.adjusted, "stability"),
    }
    for name, (fit, predictor) in fits.items():
        intervals[name] = fit.interval(predictor) if fit else None
        reasons[name] = fit.reason if fit else "no latent has what it is fitted on"
    coefficient = slope.coefficients.get("score") if slope else None
    linked = flat(intervals) | {
        "slope_se": coefficient and coefficient.se,
        "slope_se_clustered": coefficient and coefficient.se_clustered,
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
