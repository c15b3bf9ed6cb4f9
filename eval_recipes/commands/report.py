"""``saereg-bench report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from eval_recipes.commands.console import require_bench


def report(
    results: Annotated[
        Path, Argument(help="Folder of results, ours or SAEBench's own.")
    ],
    release: Annotated[
        Path | None,
        Option(help="Release folder of the SAEs: adds its command, hashes, training."),
    ] = None,
    out: Annotated[
        Path | None, Option(help="File to write; by default RESULTS/report.html.")
    ] = None,
    latents: Annotated[
        int, Option(help="Latents of each SAE to show with their examples.")
    ] = 300,
) -> None:
    """
    Write one page about a results folder; it opens in a browser, without a network.
    """
    require_bench("report")
    from eval_recipes.report.page import write_report

    typer.echo(write_report(results, release=release, out=out, latents=latents))
