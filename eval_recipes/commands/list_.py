"""``saereg-bench list``."""

from __future__ import annotations

from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from eval_recipes.commands.console import open_console, shown

_COLUMNS = ("field", "type", "default", "meaning")


def list_(
    name: Annotated[
        str | None,
        Argument(
            help="Architecture, regulariser, mechanic, preset or evaluation: show its fields, "
            "formula and source."
        ),
    ] = None,
    releases: Annotated[
        bool, Option("--releases", help="Also list SAELens' public releases.")
    ] = False,
) -> None:
    """List architectures, regularisers, mechanics, presets, evaluations and models, or show one."""
    console = open_console(soft_wrap=False)
    if name is None:
        _print_all(console, releases=releases)
        return
    for found in _descriptions(name):
        _print_one(found, console)


def _descriptions(name: str) -> list[Any]:
    from eval_recipes.tables.listing import stored_descriptions

    stored = stored_descriptions(name)
    if stored:
        return stored
    from eval_recipes.tables.description import describe

    return describe(name)


def _print_all(console: Console, *, releases: bool) -> None:
    from eval_recipes.tables.listing import public_releases, sections

    tables = sections()
    if releases:
        tables["Releases"] = public_releases()
    for title, rows in tables.items():
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
    console.print(
        "'saereg-bench list NAME' shows fields, defaults, formula and source."
    )
    if not releases:
        console.print("'saereg-bench list --releases' lists SAELens' public releases.")


def _print_one(found: Any, console: Console) -> None:
    """Print one ``Description``."""
    console.print(f"[bold]{shown(found.title)}[/]")
    console.print(f"{shown(found.text)}\n", highlight=False)
    for source in found.sources:
        console.print(f"Source: {shown(source)}", soft_wrap=True)
    console.print(f"File: {shown(found.file)}\n", soft_wrap=True)
    used = [any(row[i] for row in found.fields) for i in range(len(_COLUMNS))]
    table = Table(box=None, pad_edge=False)
    for column, is_used in zip(_COLUMNS, used):
        if is_used:
            table.add_column(column, overflow="fold")
    for row in found.fields:
        table.add_row(*(shown(cell) for cell, is_used in zip(row, used) if is_used))
    console.print(table)
