"""Colours of groups, the same in plots and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.results.reading import read_result, result_files
from eval_recipes.results.tidy import frame_of, one_line
from eval_recipes.tables.table import KIND, SAE, group_names

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


SAEColours = dict[tuple[str, str], str]
"""Colour of each SAE's group, by the SAE's ``sae_key``."""


def sae_key(release: Any, sae_id: Any) -> tuple[str, str]:
    """Return release and id as text, a missing one as empty; SAEBench may name neither."""
    first, second = ("" if pd.isna(name) else str(name) for name in (release, sae_id))
    return first, second


def record_key(record: dict[str, Any]) -> tuple[str, str]:
    """Return the ``sae_key`` of the SAE that a result is of."""
    names = (record.get("sae_lens_release_id"), record.get("sae_lens_id"))
    return sae_key(*map(one_line, names))


def sae_colours(frame: pd.DataFrame) -> SAEColours:
    """
    Return the colour of each SAE's group, numbered over all groups of a tidy table.

    A plot of some of the groups takes its colours from the table of all of them, so that a group
    has one colour in every plot.
    """
    facts: Any = frame.groupby(SAE, dropna=False)[["group", *KIND]].first()
    rows = facts.itertuples(index=True, name=None)
    names = group_names({sae_key(*key): tuple(of) for key, *of in rows})
    colours = group_colours(names.values())
    return {key: colours[name] for key, name in names.items()}


def colour_of(colours: Mapping[tuple[str, str], str], record: dict[str, Any]) -> str:
    """Return the colour of a result's SAE; grey for one that no metric names."""
    return colours.get(record_key(record), COLOURS[-1])


def folder_colours(results: Path) -> SAEColours:
    """
    Return the colour of each SAE's group in a folder of results.

    Raises:
        InputError: if a result cannot be read.
    """
    return sae_colours(frame_of(read_result(path) for path in result_files(results)))
