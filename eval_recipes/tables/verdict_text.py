"""Say in words what the differences between two groups mean."""

from __future__ import annotations

from collections.abc import Iterable

from eval_recipes.results.differences import GroupDifference
from eval_recipes.tables.run_table import digits, listed, over

_SENTENCES = {
    "shared": "share of latents that two seeds have in common",
    "mean_max_cos": "mean best cosine between two seeds' latents",
    "explained_variance": "explained variance on held-out text",
    "alive": "number of latents that fire on held-out text",
}

_COSTS = {
    "explained_variance": "reconstructs less",
    "alive": "uses fewer latents",
}
"""What a drop of a metric means, where it qualifies the others."""


def read_differences(
    differences: Iterable[GroupDifference], *, group: str, other: str
) -> list[str]:
    """
    Return one sentence for each headline difference of ``group`` minus ``other``.

    A difference counts only if its interval is over seeds or pairs of seeds and leaves 0
    out. Without such an interval every pair's difference is told, and no verdict.
    """
    oriented = [
        item if item.group == group else item.reversed()
        for item in differences
        if {item.group, item.other} == {group, other}
    ]
    by_metric = {item.metric.rsplit("/", 1)[-1]: item for item in oriented}
    sentences = [
        _sentence(words, by_metric[metric], group=group, other=other)
        for metric, words in _SENTENCES.items()
        if metric in by_metric
    ]
    costs = [
        words
        for metric, words in _COSTS.items()
        if metric in by_metric
        and by_metric[metric].distinguishable
        and by_metric[metric].difference < 0
    ]
    if costs:
        sentences.append(
            f"{group} {' and '.join(costs)} than {other}, which by itself can raise agreement between "
            "seeds: compare groups of equal width and equal explained variance before crediting the penalty."
        )
    return sentences


def _sentence(words: str, item: GroupDifference, *, group: str, other: str) -> str:
    if item.ci_low is None or item.ci_high is None:
        return f"The {words}: no interval (n = {item.n}), so {group} and {other} are not distinguishable."
    interval = f"95 % interval {digits(item.ci_low)} to {digits(item.ci_high)} over {over(item)}"
    if not item.decidable:
        pairs = f"; pair by pair {listed(item)}" if item.values else ""
        return (
            f"The {words}: {group} minus {other} is {digits(item.difference)}{pairs} ({interval}). "
            "These are too few seeds for a verdict: an interval over latents says nothing about other seeds."
        )
    if not item.distinguishable:
        return (
            f"The {words} is not distinguishable between {group} and {other} "
            f"(difference {digits(item.difference)}, {interval})."
        )
    direction = "higher" if item.difference > 0 else "lower"
    return (
        f"The {words} is {direction} with {group} than with {other} "
        f"(difference {digits(item.difference)}, {interval})."
    )
