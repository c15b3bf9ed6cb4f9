"""``saereg-bench push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from eval_recipes.commands.console import open_console, shown


def push(
    release: Annotated[Path, Argument(help="Release folder.")],
    repository: Annotated[str, Argument(help="Hub repository, owner/name.")],
    private: Annotated[
        bool, Option("--private", help="Make a new repository private.")
    ] = False,
    revision: Annotated[
        str | None,
        Option(help="Branch to commit to, made if there is none.", show_default="main"),
    ] = None,
    results: Annotated[
        Path | None,
        Option(
            help="Folder of results, which goes to results/ together with its report."
        ),
    ] = None,
    license: Annotated[
        str,
        Option(help="Licence in the model card, as the hub spells it, such as mit."),
    ] = "unknown",
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Check the hashes and list the files; send and ask nothing.",
        ),
    ] = False,
) -> None:
    """
    Upload a release to the hub in one commit, without checkpoints, its hashes checked first.

    Log in with 'hf auth login', or set HF_TOKEN. Interrupted uploads resume with the same command.
    """
    from saereg_plugin.releases.push import plan_push, upload

    plan = plan_push(
        release, repository, revision=revision, results=results, license=license
    )
    console = open_console()
    if dry_run:
        _print_plan(plan, console)
        return
    pushed = upload(plan, private=private)
    if not pushed.changed:
        console.print("The repository has these files already; nothing was committed.")
    console.print(f"Commit {pushed.commit}")
    console.print(shown(pushed.url))
    console.print(f"Evaluate it: saereg-bench run --sae-release {shown(pushed.name)}")


def _print_plan(plan: Any, console: Console) -> None:
    """Print the files of a plan with their sizes, and where they would go."""
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    for file in plan.files:
        table.add_row(shown(file.path), f"{file.size:,}")
    console.print(table)
    branch = "main" if plan.revision is None else plan.revision
    console.print(
        f"{len(plan.files)} files, {plan.size:,} bytes, to {shown(plan.repository)}, branch "
        f"{shown(branch)}. Nothing was sent."
    )
