"""Say in words what the differences between two groups mean."""

from __future__ import annotations

from collections.abc import Iterable

from eval_recipes.report import GroupDifference, digits

_SENTENCES = {
    "shared": "share of latents that two seeds have in common",
    "mean_max_cos": "mean best cosine between two seeds' latents",
    "explained_variance": "explained variance on held-out text",
    "alive": "latents that fire on held-out text",
}


def read_differences(
    differences: Iterable[GroupDifference], *, group: str, other: str
) -> list[str]:
    """
    Return one sentence for each headline difference of ``group`` minus ``other``.

    A difference counts only if its interval leaves 0 out.
    """
    oriented = [
        item if item.group == group else item.reversed()
        for item in differences
        if {item.group, item.other} == {group, other}
    ]
    by_metric = {item.metric.rsplit("/", 1)[-1]: item for item in oriented}
    return [
        _sentence(words, by_metric[metric], group=group, other=other)
        for metric, words in _SENTENCES.items()
        if metric in by_metric
    ]


def _sentence(words: str, item: GroupDifference, *, group: str, other: str) -> str:
    if item.ci_low is None or item.ci_high is None:
        return f"The {words}: no interval (n = {item.n}), so {group} and {other} are not distinguishable."
    interval = (
        f"95 % interval {digits(item.ci_low)} to {digits(item.ci_high)}, n = {item.n}"
    )
    if not item.distinguishable:
        return (
            f"The {words} is not distinguishable between {group} and {other} "
            f"(difference {digits(item.difference)}, {interval})."
        )
    direction = "higher" if item.difference > 0 else "lower"
    return (
        f"The {words} is {direction} with {group} than with {other}, by "
        f"{digits(abs(item.difference))} (of the difference: {interval})."
    )
