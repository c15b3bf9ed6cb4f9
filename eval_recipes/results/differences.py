"""Differences between groups of SAEs in result files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval_recipes.results.files import read_results
from eval_recipes.statistics.interval import OVER_SEEDS
from saereg_plugin.errors import InputError


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
    values: tuple[tuple[tuple[int, ...], float], ...] = ()
    """(seed,) or (seed, other seed), each with its own difference."""
    reason: str | None = None
    """Why there is no interval over seeds or pairs of seeds."""

    def reversed(self) -> GroupDifference:
        """Return ``other`` minus ``group``."""
        return replace(
            self,
            group=self.other,
            other=self.group,
            difference=-self.difference,
            ci_low=None if self.ci_high is None else -self.ci_high,
            ci_high=None if self.ci_low is None else -self.ci_low,
            values=tuple((seeds, -value) for seeds, value in self.values),
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
        if self.ci_low is None or self.ci_high is None or not self.decidable:
            return False
        return self.ci_low > 0 or self.ci_high < 0


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
