"""``saereg-bench doctor``."""

from __future__ import annotations

import typer
from rich.table import Table

from eval_recipes.commands.console import FAILED, open_console, shown


def doctor() -> None:
    """
    Print versions, extras, devices, hub and caches, and what would go wrong.

    The exit status is 1 if something is broken. Nothing is installed or changed.
    """
    from eval_recipes.doctor.checkup import examine

    console = open_console()
    found = examine()
    for title, findings in found.items():
        if findings.rows:
            table = Table(
                title=title, title_justify="left", box=None, show_header=False
            )
            for row in findings.rows:
                table.add_row(*(shown(cell) for cell in row))
            console.print(table)
            console.print()
    problems = [text for findings in found.values() for text in findings.problems]
    for text in (text for findings in found.values() for text in findings.notes):
        console.print(f"Note: {shown(text)}")
    for text in problems:
        console.print(f"[bold red]broken:[/] {shown(text)}")
    if problems:
        raise typer.Exit(FAILED)
    console.print("Nothing is broken.")
