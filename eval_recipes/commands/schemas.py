"""``saereg-bench schemas``: the JSON schemas of result files."""

from __future__ import annotations

from typing import Annotated

import typer

from eval_recipes.commands.console import FAILED, open_console, shown


def schemas(
    write: Annotated[
        bool, typer.Option("--write", help="Write the schemas of the result classes.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare; exit with status 1 if a file is not current."
        ),
    ] = False,
) -> None:
    """List the files, or with --write or --check bring them in line with the result classes."""
    from eval_recipes.registry import RECIPES
    from eval_recipes.results.schemas import schema_text
    from eval_recipes.running.evaluation import schema_files
    from saereg_plugin.errors import InputError
    from saereg_plugin.files import write_text

    if write and check:
        raise InputError("--write and --check exclude each other; name one.")
    console = open_console()
    stale = 0
    files = {path: cls for name in RECIPES for path, cls in schema_files(name).items()}
    for path, cls in files.items():
        text = schema_text(cls)
        current = path.is_file() and path.read_text(encoding="utf-8") == text
        if write and not current:
            write_text(path, text)
        stale += check and not current
        state = "" if current else " written" if write else " not current"
        console.print(f"{shown(path)}{state}")
    if stale:
        raise typer.Exit(FAILED)
