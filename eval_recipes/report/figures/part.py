"""One file of figures as a part of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, Strict

from eval_recipes.report.cells import Cell, Column, PageTable, figure, table, text
from eval_recipes.results.tidy import one_line
from eval_recipes.statistics.interval import Interval
from eval_recipes.tables.table import NONE, digits

Number = Annotated[FiniteFloat, Strict()]


class Content(BaseModel):
    """Content of a file; what it holds beyond the fields is left out."""

    model_config = ConfigDict(extra="ignore")


class Value(Content):
    """A figure with its interval."""

    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    n: Number | None = None
    reason: str | None = None

    def cell(self) -> Cell:
        """Return it as a cell; the reason for no interval is for a pointer."""
        return _figure(self.value, self.low, self.high, title=self.reason or "")


@dataclass(frozen=True)
class PagePassage:
    """A sentence with a list or a table, which has it as caption."""

    text: str
    points: Sequence[str] = ()
    table: PageTable | None = None


@dataclass(frozen=True)
class Part:
    """
    What a file says, on the page.

    Attributes:
        title: of what.
        summary: sentences on what was done, with its source.
        docs: page of the documentation that defines the figures.
        facts: settings, by name.
        sentences: what came out.
        tables: with intervals, and null where there is one.
        details: tables that are closed at first.
        definitions: of columns that do not say it themselves.
        passages: further text, each with points or a table.
        notes: on how to read all of it.
    """

    title: str
    summary: str
    docs: str
    facts: Sequence[tuple[str, str]] = ()
    sentences: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    details: Sequence[PageTable] = ()
    definitions: Sequence[tuple[str, str]] = ()
    passages: Sequence[PagePassage] = ()
    notes: Sequence[str] = ()


Reader = Callable[[str, Any], Part]
"""Makes a part from its anchor on the page and the content of a file."""


def facts_of(
    content: Mapping[str, Any], without: Sequence[str]
) -> list[tuple[str, str]]:
    """
    Return the single values of a file by their names, and lists of such; others are left out.

    >>> facts_of({"lr_end": 0.5, "of": [1, 2], "rows": [{}], "none": None}, [])
    [('lr end', '0.5'), ('of', '1, 2')]
    """
    found: list[tuple[str, str]] = []
    for name, value in content.items():
        values = value if isinstance(value, list) else [value]
        if name in without or not values:
            continue
        if all(isinstance(one, (str, int, float)) for one in values):
            shown = ", ".join(map(_fact, values))
            found.append((one_line(name.replace("_", " ")) or "", shown))
    return found


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else one_line(value) or ""


def value_cell(
    value: float | None, low: float | None = None, high: float | None = None
) -> Cell:
    """Return a figure, with its interval if it has one."""
    return _figure(value, low, high)


def count_cell(value: float | None) -> Cell:
    """Return a number of things."""
    if value is None:
        return text(None)
    return Cell(f"{value:,.0f}", repr(value), whole=f"{value:,.0f}")


def range_text(low: float | None, high: float | None) -> Cell:
    """Return two ends without a middle."""
    if low is None or high is None:
        return text(None)
    return text(f"{digits(low)} to {digits(high)}")


def group_cell(group: str | None) -> Cell:
    """Return the name of a group, with its colour if the page has one."""
    return text(group, group=group)


def seed_cell(*seeds: float | None) -> Cell:
    """Return a seed, or a pair of seeds."""
    known = [f"{seed:g}" for seed in seeds if seed is not None]
    return text("-".join(known) or None)


def named_table(
    name: str, caption: str, columns: Mapping[str | Column, Sequence[Cell]]
) -> PageTable:
    """Return a table by columns; one without any value is left out, but for the first."""
    kept = {
        head: cells
        for number, (head, cells) in enumerate(columns.items())
        if number == 0 or any(cell.is_number or cell.text != NONE for cell in cells)
    }
    rows = [list(row) for row in zip(*kept.values(), strict=True)]
    return table(name, caption, list(kept), rows)


def _figure(
    value: float | None, low: float | None, high: float | None, *, title: str = ""
) -> Cell:
    found = None if value is None else Interval(value, low, high, 0)
    return figure(found, title=title)
