"""Tables of the report page, with numbers aligned on the decimal point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from eval_recipes.results.tidy import one_line
from eval_recipes.statistics.interval import Interval
from eval_recipes.tables.table import NONE, digits


@dataclass(frozen=True)
class Cell:
    """
    One cell: text, or a number in the parts left and right of its decimal point.

    Attributes:
        text: everything that it says, as in the tables of the command line.
        sort: value by which a script sorts it; a number with every digit.
        whole: sign and digits before the decimal point; empty in a cell of text.
        rest: decimal point, digits and exponent.
        ends: interval in brackets.
        mark: sign after a number, such as a star.
        note: small second line.
        group: group whose colour marks it.
        title: longer text for a pointer.
        code: whether it is set in a monospaced face.
        span: rows that it spans; 0 where a cell above spans this row.
    """

    text: str
    sort: str = ""
    whole: str = ""
    rest: str = ""
    ends: str = ""
    mark: str = ""
    note: str = ""
    group: str | None = None
    title: str = ""
    code: bool = False
    span: int = 1

    @property
    def is_number(self) -> bool:
        """Whether the cell is aligned on a decimal point."""
        return bool(self.whole or self.rest)


@dataclass(frozen=True)
class Column:
    """Head of a column; ``whole`` and ``rest`` are the widest parts of its numbers."""

    head: str
    title: str = ""
    group: str | None = None
    whole: int = 0
    rest: int = 0

    @property
    def numeric(self) -> bool:
        """Whether the column holds numbers."""
        return self.whole + self.rest > 0


@dataclass(frozen=True)
class PageTable:
    """A table with a caption; the first cell of each row heads it."""

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    sortable: bool = True


def table(
    name: str,
    caption: str,
    heads: Sequence[str | Column],
    rows: Sequence[Sequence[Cell]],
    *,
    notes: Sequence[str] = (),
    sortable: bool = True,
) -> PageTable:
    """Return a table whose columns know how wide their numbers are."""
    columns: list[Column] = []
    for index, head in enumerate(heads):
        column = Column(head) if isinstance(head, str) else head
        numbers = [row[index] for row in rows if row[index].is_number]
        columns.append(
            Column(
                column.head,
                column.title,
                column.group,
                max((len(cell.whole) for cell in numbers), default=0),
                max((len(cell.rest) for cell in numbers), default=0),
            )
        )
    return PageTable(
        name, caption, columns, [list(r) for r in rows], list(notes), sortable
    )


def text(value: Any, *, group: str | None = None, **more: Any) -> Cell:
    """Return a cell of text in one line; a missing value is a dash."""
    shown = NONE if _is_missing(value) else one_line(value) or ""
    return Cell(shown, shown, group=group, **more)


def number(value: Any, *, note: str = "", title: str = "") -> Cell:
    """
    Return a number in few digits.

    >>> number(31.98).whole, number(31.98).rest
    ('32', '.0')
    """
    if _is_missing(value):
        return Cell(NONE, note=note, title=title)
    return figure(Interval(float(value), None, None, 0), note=note, title=title)


def figure(
    found: Interval | None, *, note: str = "", title: str = "", mark: str = ""
) -> Cell:
    """
    Return a figure with its interval in brackets, as ``tables.table.cell`` writes it.

    >>> figure(Interval(0.5, 0.25, 0.75, 3)).ends
    '[.250, .750]'
    """
    if found is None or not math.isfinite(found.value):
        return Cell(NONE, note=note, title=title)
    shown = digits(found.value)
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f"[{digits(found.low)}, {digits(found.high)}]"
    point = next((i for i, c in enumerate(shown) if c in ".e"), len(shown))
    return Cell(
        text=f"{shown}{mark} {ends}".strip(),
        sort=repr(float(found.value) + 0.0),
        whole=shown[:point],
        rest=shown[point:],
        ends=ends,
        mark=mark,
        note=note,
        title=title,
    )


def _is_missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))
