"""``saereg-bench artifacts``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Option

from eval_recipes.commands.console import open_console, require_bench, shown


def artifacts(
    artifacts: Annotated[
        Path | None,
        Option(help="Folder of artefacts; by default the one in the user's cache."),
    ] = None,
    keep: Annotated[
        str | None,
        Option(
            metavar="SIZE",
            help="Remove the least recently used until the rest takes at most SIZE, such as 20GB.",
        ),
    ] = None,
    replies: Annotated[
        bool,
        Option(
            "--replies",
            help="With --keep: also remove replies of chat models, which must be paid again.",
        ),
    ] = False,
) -> None:
    """List what evaluations keep between runs (size, last use, what for); remove old ones."""
    require_bench("artifacts")
    from eval_recipes.running.artifact_space import (
        Entry,
        entries,
        existing_artifacts,
        parse_size,
        remove_down_to,
        shown_age,
        shown_size,
    )
    from saereg_plugin.errors import InputError

    if replies and keep is None:
        raise InputError(
            "--replies says what --keep may remove; expected --keep SIZE next to it."
        )
    size = None if keep is None else parse_size(keep)
    root = existing_artifacts(artifacts)
    kept, removed = entries(root), list[Entry]()
    if size is not None:
        kept, removed = remove_down_to(root, size, replies=replies)
    console = open_console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for entry in kept:
        cells = (shown_size(entry.size), shown_age(entry.used), entry.eval, entry.about)
        table.add_row(*(shown(cell) for cell in cells))
    console.print(table)
    total = sum(entry.size for entry in kept)
    console.print(f"{shown_size(total)} in {shown(root)}")
    if size is not None:
        freed = shown_size(sum(entry.size for entry in removed))
        console.print(f"Removed {len(removed)} of them: {freed}")
    if size is not None and total > size:
        console.print(
            f"More than {shown_size(size)} is left: replies of chat models go only with --replies, "
            "and what is in use stays."
        )
