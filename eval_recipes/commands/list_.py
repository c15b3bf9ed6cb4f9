"""``saereg-bench list``."""

from __future__ import annotations

from typing import Annotated

from rich.markup import escape
from rich.table import Table
from typer import Option

from eval_recipes.commands.console import open_console


def list_(
    releases: Annotated[
        bool, Option(help="Also list SAELens' public releases.")
    ] = False,
) -> None:
    """List architectures, regularisers, evaluations and models."""
    import saereg_plugin  # noqa: F401  # pyright: ignore[reportUnusedImport]  (registers)
    from eval_recipes.tables.listing import sections

    console = open_console(soft_wrap=False)
    for title, rows in sections(public_releases=releases).items():
        table = Table(
            title=title,
            title_justify="left",
            box=None,
            show_header=False,
            pad_edge=False,
        )
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
        console.print()
