"""Colours of groups, the same in plots and report."""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#999999",
)
"""
Colours that most colour-blind readers tell apart (Okabe and Ito).

Left out are black, which a dark page hides, and yellow, which a white one does; grey is last.
"""


def group_colours(groups: Iterable[str]) -> dict[str, str]:
    """
    Return a colour as ``#RRGGBB`` for each group, by name.

    The order of ``groups`` and repetitions do not matter: the same groups get the same
    colours everywhere. Beyond seven groups colours repeat.

    >>> group_colours(["none", "l2", "none"])
    {'l2': '#0072B2', 'none': '#D55E00'}
    """
    names = sorted(set(groups))
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
