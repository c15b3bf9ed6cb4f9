"""``saereg-bench export``: what other programs read."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer import Argument, Option

from eval_recipes.commands.console import (
    open_console,
    require_bench,
    shown,
    with_verbosity,
)
from eval_recipes.commands.flags import listed

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


@export.command()
@with_verbosity
def neuronpedia(
    results: Annotated[
        Path, Argument(help="Folder of results with those of the evaluation examples.")
    ],
    release: Annotated[str, Option(help="Release folder of the same SAEs.")],
    out: Annotated[Path, Option(help="Folder to write; the same command updates it.")],
    sae_id: Annotated[
        list[str] | None,
        Option(
            metavar="IDS", help="Only these SAEs, by commas or repetition; else all."
        ),
    ] = None,
    model_id: Annotated[
        str | None,
        Option(
            help="Name of the language model on Neuronpedia.",
            show_default="from the SAE's",
        ),
    ] = None,
    creator_id: Annotated[
        str | None,
        Option(
            help="Id of the user who owns the imported rows.",
            show_default="of a new local server",
        ),
    ] = None,
    post: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="Also send the latents to this server, with the key in NEURONPEDIA_API_KEY; the "
            "same command resumes.",
        ),
    ] = None,
    batch: Annotated[
        int, Option(help="Latents in one request of --post.", min=1, max=128)
    ] = 128,
) -> None:
    """
    Write latents as Neuronpedia's bulk import reads them; optionally send them to a server.

    Stability and matches in other seeds are in the explanations, where cross_seed measured
    them. Latents that never fired are left out and counted.
    """
    require_bench("export neuronpedia")
    from eval_recipes.neuronpedia.export import write_export
    from eval_recipes.neuronpedia.post import open_server, post_sources
    from eval_recipes.neuronpedia.rows import LOCAL_CREATOR, Owner
    from eval_recipes.neuronpedia.source import open_sources
    from saereg_plugin.releases.opening import open_release

    server = None if post is None else open_server(post)
    opened = open_release(release)
    sources = open_sources(results, opened, sae_ids=listed(sae_id), model=model_id)
    console = open_console()
    owner = Owner(creator_id or LOCAL_CREATOR)
    for one in write_export(sources, out, owner=owner):
        _print_exported(one, console)
    if server is None:
        return
    for sent in post_sources(sources, server, out, batch=batch):
        earlier = f", {sent.kept:,} were there" if sent.kept else ""
        console.print(
            f"Sent {sent.sent:,} latents of {shown(sent.source.entry.sae_id)} to {shown(post)}"
            f"{earlier}."
        )


def _print_exported(one: Any, console: Console) -> None:
    source = one.source
    console.print(
        f"Wrote {one.latents:,} latents and {one.explanations:,} explanations of "
        f"{shown(source.entry.sae_id)} to {shown(one.folder)}; {source.n_dead:,} that never fired "
        "are left out."
    )
