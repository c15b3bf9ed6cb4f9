"""Differences between groups of SAEs: computed, and read from result files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
from scipy.stats import t as student_t

from eval_recipes.results.files import read_results
from eval_recipes.results.headlines import HEADLINE_DIFFERENCES
from eval_recipes.statistics.interval import OVER_SEEDS, Interval
from eval_recipes.statistics.seeds import (
    ROUNDING,
    SeedPair,
    over_pairs,
    paired_difference,
)
from saereg_plugin.errors import InputError

Values = tuple[tuple[tuple[int, ...], float], ...]
"""(seed,) or (seed, other seed), and the difference in it alone."""

_Key = TypeVar("_Key", int, SeedPair)


class Difference(NamedTuple):
    """``group - other``; an interval, if there is one, is over seeds or pairs of seeds."""

    interval: Interval
    values: Values

    @property
    def freedom(self) -> int:
        """Degrees of freedom of Student's t: those of the seeds, also for pairs of seeds."""
        return len({seed for seeds, _ in self.values for seed in seeds}) - 1

    def p_value(self, bound: float) -> float | None:
        """
        Return the two-sided p-value of a difference equal to ``bound``.

        It is below .05 where the 95 % interval, from which the standard error comes, leaves
        ``bound`` out. None without an interval, or with one that only rounding widens.
        """
        found = self.interval
        if found.low is None or found.high is None or self.freedom < 1:
            return None
        error = (found.high - found.low) / 2 / float(student_t.ppf(0.975, self.freedom))
        if error <= ROUNDING * max(abs(found.low), abs(found.high)):
            return None
        distance = abs(found.value - bound) / error
        return 2 * float(student_t.sf(distance, self.freedom))


def group_minus_other(
    group: Mapping[_Key, float], other: Mapping[_Key, float]
) -> Difference | None:
    """
    Subtract a figure of two groups by the seeds, or pairs of seeds, that both have.

    The interval is Student's t over seeds, or a jackknife over pairs of five seeds or more.
    None if the groups have no seed or pair in common.
    """
    common = sorted(set(group) & set(other))
    if not common:
        return None
    values: Any = {key: group[key] - other[key] for key in common}
    if isinstance(common[0], tuple):
        return Difference(over_pairs(values), tuple(values.items()))
    sides: Any = [{seed: side[seed] for seed in common} for side in (group, other)]
    by_seed = tuple(((seed,), value) for seed, value in values.items())
    return Difference(paired_difference(*sides), by_seed)


def listed_values(
    values: Iterable[tuple[tuple[int, ...], float]],
) -> list[dict[str, Any]]:
    """Return the difference in each seed or pair of seeds as plain JSON."""
    return [{"seeds": list(seeds), "difference": value} for seeds, value in values]


@dataclass(frozen=True)
class GroupDifference:
    """A metric of ``group`` minus that of ``other``; the 95 % interval may be missing."""

    metric: str
    group: str
    other: str
    difference: float
    ci_low: float | None
    ci_high: float | None
    n: int | None
    """Number of ``interval_over``; without an interval, of seeds or pairs of seeds."""
    interval_over: str | None = None
    """"seeds", "seed pairs" or "latents"; None without an interval."""
    values: Values = ()
    reason: str | None = None
    """Why there is no interval over seeds or pairs of seeds."""

    @property
    def name(self) -> str:
        """The metric without its category."""
        return self.metric.rsplit("/", 1)[-1]

    @property
    def interval(self) -> Interval:
        """The difference as an interval; ``n`` is 0 where a file does not say it."""
        ends = self.ci_low, self.ci_high
        return Interval(self.difference, *ends, self.n or 0, self.reason)

    def reversed(self) -> GroupDifference:
        """Return ``other`` minus ``group``."""
        return replace(
            self,
            group=self.other,
            other=self.group,
            difference=0.0 - self.difference,
            ci_low=None if self.ci_high is None else -self.ci_high,
            ci_high=None if self.ci_low is None else -self.ci_low,
            values=tuple((seeds, 0.0 - value) for seeds, value in self.values),
        )

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval of any kind."""
        return self.ci_low is not None and self.ci_high is not None

    @property
    def decidable(self) -> bool:
        """Whether there is an interval that generalises to unseen seeds."""
        return self.has_interval and self.interval_over in OVER_SEEDS

    @property
    def distinguishable(self) -> bool:
        """
        Whether zero lies outside an interval over seeds or pairs of seeds.

        An interval over latents shows how much the figure depends on the latents of these
        SAEs. It is narrow even with two seeds, and the next seed may lie far outside.
        """
        return self.decidable and self.interval.distinguishable


def plain_groups(frame: pd.DataFrame) -> set[str]:
    """Return the groups of a tidy table that were trained without a penalty."""
    return set(frame.loc[frame["penalty"] == "none", "group"])


def minus_plain(
    differences: Iterable[GroupDifference], plain: Collection[str]
) -> list[GroupDifference]:
    """Return the differences, turned round where a plain group has the other subtracted."""
    return [
        item.reversed() if item.group in plain and item.other not in plain else item
        for item in differences
    ]


def differences_frame(differences: Iterable[GroupDifference]) -> pd.DataFrame:
    """Return one row per headline difference: its value, its ends, what they are over."""
    columns = (
        "difference of",
        "groups",
        "value",
        "low",
        "high",
        "n",
        "over",
        "differs",
    )
    rows = [
        (
            item.name,
            f"{item.group} - {item.other}",
            item.difference,
            item.ci_low,
            item.ci_high,
            item.n,
            item.interval_over,
            "yes" if item.distinguishable else "",
        )
        for item in differences
        if item.name in HEADLINE_DIFFERENCES
    ]
    return pd.DataFrame(rows, columns=pd.Index(columns)).astype({"n": object})


def load_group_differences(
    folder: Path,
    releases: Collection[str] | None = None,
    *,
    without: Collection[Path] = (),
) -> list[GroupDifference]:
    """
    Return the differences between groups in the results below ``folder``.

    Only results of ``releases`` are read; files ``without`` are left out. Each difference is
    in every result of both groups, with opposite signs; the first one found is returned.

    Raises:
        InputError: if a result file is broken.
    """
    found: dict[tuple[str, frozenset[str]], GroupDifference] = {}
    for path, record in read_results(folder, without=without):
        extra: Any = record.get("eval_result_unstructured")
        release = record.get("sae_lens_release_id")
        if isinstance(extra, dict) and (releases is None or release in releases):
            for difference in _differences(path, extra):
                pair = frozenset((difference.group, difference.other))
                found.setdefault((difference.metric, pair), difference)
    return list(found.values())


def _differences(path: Path, extra: dict[str, Any]) -> list[GroupDifference]:
    try:
        own = extra.get("saereg", {}).get("group")
        items = extra.get("group_differences") or []
        return [_difference(item, own) for item in items]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"Result file {str(path)!r} is damaged: its group_differences lack something "
            f"({type(error).__name__}: {error}). Delete it and run that evaluation again."
        ) from error


def _difference(item: dict[str, Any], group: str) -> GroupDifference:
    return GroupDifference(
        metric=item["metric"],
        group=group,
        other=item["other_group"],
        difference=item["difference"],
        ci_low=item.get("ci_low"),
        ci_high=item.get("ci_high"),
        n=item.get("n"),
        interval_over=item.get("interval_over"),
        values=tuple(
            (tuple(value["seeds"]), value["difference"])
            for value in item.get("values") or []
        ),
        reason=item.get("reason"),
    )
