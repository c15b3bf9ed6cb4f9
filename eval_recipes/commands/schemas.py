"""``saereg-bench schemas``: the JSON schemas of result files and of sweep.yaml."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from eval_recipes.commands.console import FAILED, open_console, require_bench, shown


def schemas(
    write: Annotated[
        bool, Option("--write", help="Write the schemas of the result classes.")
    ] = False,
    check: Annotated[
        bool,
        Option("--check", help="Compare; exit with status 1 if a file is not current."),
    ] = False,
) -> None:
    """List the files, or with --write or --check bring them in line with the result classes."""
    require_bench("schemas")
    from eval_recipes.registry import RECIPES
    from eval_recipes.results.schemas import schema_text
    from eval_recipes.running.evaluation import schema_files
    from saereg_plugin.errors import InputError
    from saereg_plugin.files import write_text
    from saereg_plugin.sweeps import config as sweeps

    if write and check:
        raise InputError("--write and --check exclude each other; name one.")
    texts = {sweeps.SCHEMA: sweeps.schema_text()}
    for name in RECIPES:
        files = schema_files(name)
        texts |= {path: schema_text(cls) for path, cls in files.items()}
    console = open_console()
    stale = 0
    for path, text in texts.items():
        current = path.is_file() and path.read_text(encoding="utf-8") == text
        if write and not current:
            write_text(path, text)
        stale += check and not current
        state = "" if current else " written" if write else " not current"
        console.print(f"{shown(path)}{state}")
    if stale:
        raise typer.Exit(FAILED)
