"""A passage of a study: a sentence, then a list or table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval_recipes.statistics.interval import Interval
from eval_recipes.tables.table import cell, markdown_table

Shown = str | Interval | None
"""One cell: text, a figure, or nothing."""


@dataclass(frozen=True)
class Passage:
    """
    What a study says beside its table.

    Attributes:
        text: what follows: a sentence with its definition, that ends with a colon.
        points: sentences of a list.
        heads: of the table's columns.
        rows: of the table.
    """

    text: str
    points: Sequence[str] = ()
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[Shown]] = ()

    def markdown(self) -> str:
        r"""
        Return it as Markdown.

        >>> Passage("Shown:", points=["one"]).markdown()
        'Shown:\n\n- one'
        """
        parts = [self.text]
        if self.points:
            parts.append("\n".join(f"- {point}" for point in self.points))
        if self.heads:
            rows = [
                [one if isinstance(one, str) else cell(one) for one in row]
                for row in self.rows
            ]
            parts.append(markdown_table(self.heads, rows))
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; a figure is a mapping with its interval."""
        return {
            "text": self.text,
            "points": list(self.points),
            "heads": list(self.heads),
            "rows": [
                [one._asdict() if isinstance(one, Interval) else one for one in row]
                for row in self.rows
            ],
        }
