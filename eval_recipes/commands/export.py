"""``saereg-bench export``: what other programs read."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from eval_recipes.commands.console import open_console, shown, with_verbosity

export = typer.Typer(
    help="Write training records, or latents, as files of other programs.",
    no_args_is_help=True,
)


class RecordFormat(str, Enum):
    """Choices of ``--to``."""

    CSV = "csv"
    TENSORBOARD = "tensorboard"


@export.command()
@with_verbosity
def records(
    release: Annotated[
        Path, Argument(help="Release folder, also of a training that is not finished.")
    ],
    to: Annotated[RecordFormat, Option(help="Format of the files.")],
    out: Annotated[
        Path | None,
        Option(help="Folder for the files.", show_default="RELEASE-records"),
    ] = None,
) -> None:
    """Write the training records of a release as one CSV file, or as runs of TensorBoard."""
    from saereg_plugin.sweeps.record_files import (
        records_folder,
        write_csv,
        write_events,
    )

    folder = records_folder(release) if out is None else out
    console = open_console()
    if to is RecordFormat.CSV:
        console.print(f"Wrote {shown(write_csv(release, folder))}")
        return
    written = write_events(release, folder)
    console.print(
        f"Wrote {len(written)} runs to {shown(folder)}; see them with "
        f"'tensorboard --logdir {shown(folder)}'."
    )
