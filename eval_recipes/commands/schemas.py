"""``saereg-bench schemas``: JSON schemas, and what is stored of the registries."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from eval_recipes.commands.console import FAILED, open_console, require_bench, shown


def schemas(
    write: Annotated[
        bool, Option("--write", help="Write the files that differ from the code.")
    ] = False,
    check: Annotated[
        bool,
        Option("--check", help="Compare; exit with status 1 if a file is not current."),
    ] = False,
) -> None:
    """
    List the JSON schemas and the listings; --write makes them from the code, --check compares.
    """
    require_bench("schemas")
    from eval_recipes.registry import RECIPES
    from eval_recipes.results.schemas import schema_text
    from eval_recipes.running.evaluation import schema_files
    from eval_recipes.tables import listing
    from eval_recipes.tables.description import descriptions_text
    from saereg_plugin import registry
    from saereg_plugin.errors import InputError
    from saereg_plugin.files import write_text
    from saereg_plugin.sweeps import config as sweeps

    if write and check:
        raise InputError("--write and --check exclude each other; name one.")
    texts = {
        sweeps.SCHEMA: sweeps.schema_text(),
        registry.DEFAULTS: registry.defaults_text(),
        listing.LISTING: listing.listing_text(),
        listing.DESCRIPTIONS: descriptions_text(),
    }
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
