"""Groups of SAEs as read from cross-seed results, and their comparisons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eval_recipes.cross_seed.roles import Role
from eval_recipes.results.differences import listed_values
from eval_recipes.results.files import read_results
from eval_recipes.results.outdated import outdated_results
from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import SeedPair
from saereg_plugin.errors import InputError

Z = 1.959964
"""Standard errors in half a 95 % interval."""


class Estimate(NamedTuple):
    """A figure and its standard error, None where it is not known."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class ResultGroup:
    """One group of a release."""

    role: Role
    group: str
    pairs: Mapping[SeedPair, Mapping[str, Any]]
    """Figures of every pair of seeds, from the side of the lower seed."""
    over_latents: Mapping[str, float | None]
    """Means over the pairs with intervals over latents, as flat fields."""
    single: Mapping[str, Mapping[int, float]]
    """Figures of single SAEs, by metric and seed."""
    variance_errors: Mapping[int, float]
    """Standard error over contexts of each SAE's explained variance, where it is known."""
    records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def metric(self, name: str) -> Estimate | None:
        """Return the mean over pairs of seeds and its standard error over latents."""
        value = self.over_latents.get(name)
        return (
            None if value is None else Estimate(value, _error(self.over_latents, name))
        )

    def n_latents(self, name: str) -> int:
        """Return how many latents of one SAE the error of ``metric(name)`` rests on."""
        return int(self.over_latents.get(f"{name}_n") or 0)

    @property
    def seeds(self) -> list[int]:
        """The seeds of its pairs."""
        return sorted({seed for pair in self.pairs for seed in pair})

    @property
    def explained_variance(self) -> Estimate | None:
        """
        The mean over seeds and its standard error over contexts; None if a seed lacks it.

        All SAEs read the same contexts, so their errors go up and down together: the
        mean's is the mean of theirs, not less.
        """
        values = self.single["explained_variance"]
        if not values or set(values) != set(self.seeds):
            return None
        mean = sum(values.values()) / len(values)
        errors = self.variance_errors
        if set(errors) != set(values):
            return Estimate(mean)
        return Estimate(mean, sum(errors.values()) / len(errors))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``group`` minus ``other`` in one metric; ``reason`` says why something is missing."""

    kind: str
    """"regularised - matched", "regularised - wide", "matched - wide", or with "at equal
    explained variance": there the family of ``group``, which differs in the coefficient
    only, is interpolated to the explained variance of ``other``."""
    group: str
    other: str
    metric: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    interval_over: str | None = None
    """"seed pairs", "seeds", or "latents" (and contexts, where interpolated)."""
    n: int = 0
    """
    How many of ``interval_over``; if latents, of one SAE of every group that is in the
    difference; without an interval how many ``values``.
    """
    values: Mapping[tuple[int, ...], float] = field(default_factory=dict)
    """The difference in every pair of seeds, or in every (seed,) for figures of single SAEs."""
    explained_variance: float | None = None
    between: tuple[float, float] | None = None
    """Coefficients between which the family was interpolated."""
    reason: str | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        found = {name: value for name, value in vars(self).items() if name != "values"}
        return {**found, "values": listed_values(self.values.items())}


def interval_fields(found: Interval, over: str) -> dict[str, Any]:
    """Return an interval ``over`` seeds, pairs or latents as fields of ``Comparison``."""
    return {
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "interval_over": None if found.low is None else over,
        "n": found.n,
        "reason": found.reason,
    }


SINGLE = {
    "explained_variance": "heldout",
    "l0": "heldout",
    "alive": "heldout",
    "alive_by_weights": "geometry",
    "c_dec": "geometry",
}
"""Figures of single SAEs that are compared, and the category of each."""


def read_groups(folder: Path, *, without: Collection[Path] = ()) -> list[ResultGroup]:
    """
    Read the groups of the cross-seed results below a folder, by release and name.

    Outdated results (``eval_recipes.results.outdated``) and files ``without`` are left out.

    Raises:
        InputError: if there is none, one is of an older version, or two runs over
            different seeds are mixed in one group.
    """
    by_group: dict[str, list[dict[str, Any]]] = defaultdict(list)
    # a result of an earlier run has other groups and seeds than its group now
    left_out = {*outdated_results(folder), *without}
    for path, record in read_results(folder, without=left_out):
        if record["eval_type_id"] != "cross_seed":
            continue
        extra = record.get("eval_result_unstructured") or {}
        if "role" not in extra or "group_pairs" not in extra:
            raise InputError(
                f"Result {str(path)!r} is of an older version; expected one that says what "
                "its group is. Run the evaluation 'cross_seed' again."
            )
        by_group[_group_name(path, extra["role"])].append(record)
    if not by_group:
        raise InputError(
            f"Folder {str(folder)!r} holds no result of the evaluation 'cross_seed'; "
            "run it into that folder first."
        )
    return [_checked_group(folder, name, by_group[name]) for name in sorted(by_group)]


def _group_name(path: Path, role: Any) -> str:
    if not isinstance(role, dict) or not isinstance(role.get("name"), str):
        raise InputError(
            f"Result {str(path)!r} is damaged: its role is {role!r}; expected a group's name "
            "among others. Run the evaluation 'cross_seed' again."
        )
    return role["name"]


def _checked_group(
    folder: Path, name: str, records: list[dict[str, Any]]
) -> ResultGroup:
    try:
        return _group(name, records)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"A result of group {name!r} in {str(folder)!r} is damaged "
            f"({type(error).__name__}: {error}). Run the evaluation 'cross_seed' again."
        ) from error


def _group(name: str, records: list[dict[str, Any]]) -> ResultGroup:
    extras = [record["eval_result_unstructured"] for record in records]
    first = extras[0]
    if any(extra["seeds"] != first["seeds"] for extra in extras):
        raise InputError(
            f"Results of group {name!r} come from runs over different seeds; expected one "
            "run. Evaluate all its SAEs together, or into different folders."
        )
    by_seed = {
        extra["saereg"]["seed"]: record["eval_result_metrics"]
        for extra, record in zip(extras, records, strict=True)
    }
    single = {
        metric: {
            seed: metrics[category][metric]
            for seed, metrics in by_seed.items()
            if metrics[category][metric] is not None
        }
        for metric, category in SINGLE.items()
    }
    errors = {
        seed: _error(metrics["heldout"], "explained_variance")
        for seed, metrics in by_seed.items()
    }
    return ResultGroup(
        role=Role(**first["role"]),
        group=first["saereg"]["group"],
        pairs={(p["seeds"][0], p["seeds"][1]): p for p in first["group_pairs"]},
        over_latents=first["group_over_latents"],
        single=single,
        variance_errors={s: error for s, error in errors.items() if error is not None},
        records=records,
    )


def _error(figures: Mapping[str, Any], name: str) -> float | None:
    """Return the standard error of a figure by its 95 % interval, if it has one."""
    low, high = (figures[f"{name}_ci_{end}"] for end in ("low", "high"))
    return None if low is None or high is None else (high - low) / (2 * Z)
