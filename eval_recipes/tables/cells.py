"""Cells and tables as text: numbers, intervals, Markdown, the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from rich.table import Table

from eval_recipes.statistics.interval import Interval

NONE = "-"
"""A cell without a value."""


def digits(value: float) -> str:
    """
    Return a number in few characters.

    >>> digits(0.82349), digits(31.98), digits(4096.0), digits(-1.2e-6)
    ('.823', '32.0', '4096', '-1.2e-06')
    """
    if not math.isfinite(value):
        return NONE
    size = abs(value)
    if value == round(value) or size >= 1000:
        return f"{value:.0f}"
    if size >= 1:
        return f"{value:.3g}" if size >= 100 else f"{value:#.3g}"
    if size < 5e-4:
        return f"{value:.1e}"
    return f"{value:.3f}".replace("0.", ".", 1)


def cell(figure: Interval | None, show: Callable[[float], str] = digits) -> str:
    """
    Return a figure and its interval as ``value [low, high]``, each end as ``show`` writes it.

    >>> cell(Interval(0.5, 0.25, 0.75, 3)), cell(Interval(0.5, None, None, 1)), cell(None)
    ('.500 [.250, .750]', '.500', '-')
    """
    if figure is None:
        return NONE
    if figure.low is None or figure.high is None:
        return show(figure.value)
    return f"{show(figure.value)} [{show(figure.low)}, {show(figure.high)}]"


def interval_words(figure: Interval) -> str:
    """Return ``95 % interval low to high`` in few digits, or why there is none."""
    if figure.low is None or figure.high is None:
        return f"no interval: {figure.reason}"
    return f"95 % interval {digits(figure.low)} to {digits(figure.high)}"


def markdown_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
) -> str:
    """
    Return a Markdown table without a final newline; columns headed ``right`` are right-aligned.

    >>> print(markdown_table(["a", "b"], [["x|y", "1"]], right=["b"]))
    | a | b |
    | --- | ---: |
    | x\\|y | 1 |
    """
    rule = ["---:" if head in right else "---" for head in heads]
    return "\n".join(
        f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |"
        for line in (heads, rule, *rows)
    )


def plain_table(title: str, **settings: Any) -> Table:
    """Return an empty table for the terminal, without borders; ``settings`` are rich's."""
    return Table(
        title=title, title_justify="left", box=None, pad_edge=False, **settings
    )
