"""Fields of the output from figures, and why those without a value have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from eval_recipes.results.metrics import flat
from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.stats.figures import Counts, Links, Rates, figure_of
from eval_recipes.steering.stats.logistic import Coefficient, LogisticFit


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
