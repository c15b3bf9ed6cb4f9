"""The command ``saereg-bench``: reads arguments, calls, prints."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer
from typer import Option

from eval_recipes.commands.artifacts import artifacts
from eval_recipes.commands.cache import cache
from eval_recipes.commands.console import (
    BAD_INPUT,
    FAILED,
    Quiet,
    Verbose,
    interrupt_on_signals,
    keep_printing,
    machine_failure,
    open_console,
    set_verbosity,
    shown,
    with_verbosity,
)
from eval_recipes.commands.contrast.layers import layers
from eval_recipes.commands.demo import demo
from eval_recipes.commands.doctor import doctor
from eval_recipes.commands.export import export
from eval_recipes.commands.list_ import list_
from eval_recipes.commands.push import push
from eval_recipes.commands.results import plot, report, show, table
from eval_recipes.commands.run import run
from eval_recipes.commands.schemas import schemas
from eval_recipes.commands.select import select
from eval_recipes.commands.speed import speed
from eval_recipes.commands.studies.study import study
from eval_recipes.commands.texts.data import data
from eval_recipes.commands.train import train
from eval_recipes.commands.training.distill import distill
from eval_recipes.commands.training.finetune import finetune
from eval_recipes.commands.training.pool import pool
from eval_recipes.commands.training.revive import revive

# torch and SAELens take many seconds to import; commands import what they use, so that
# --help answers at once
app = typer.Typer(
    help="Train regularised sparse autoencoders with SAELens, and evaluate SAEs with SAEBench.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"saereg-plugin {version('saereg-plugin')}")
        raise typer.Exit


@app.callback()
def _settings(
    verbose: Verbose = 0,
    quiet: Quiet = False,
    _version: Annotated[
        bool,
        Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and end.",
        ),
    ] = False,
) -> None:
    if verbose or quiet:
        set_verbosity(verbose=verbose, quiet=quiet)


_COMMANDS = (
    *(train, finetune, revive, pool, distill, cache, run, select, layers, data),
    *(push, table, plot, report, speed, demo, doctor, artifacts, schemas),
)
for command in _COMMANDS:
    app.command()(with_verbosity(command))
app.command("list")(with_verbosity(list_))
app.add_typer(study, name="study")
app.add_typer(show, name="show")
app.add_typer(export, name="export")


def main() -> None:
    """
    Run the command.

    Bad input ends with one clear error and status 2, full memory or a full disk with one
    and status 1; other errors are faults of ours and show where they were raised.
    """
    _quieten()
    try:
        app()
    except Exception as error:
        status, message = _told(error)
        if message is None:
            raise
        open_console(stderr=True).print(f"[bold red]error:[/] {shown(message)}")
        sys.exit(status)


def _told(error: Exception) -> tuple[int, str | None]:
    """Return exit status and message of an error that is not a fault of ours."""
    if isinstance(error, ValueError | RuntimeError):
        from saereg_plugin.errors import InputError, WriteError

        if isinstance(error, InputError):
            return BAD_INPUT, str(error)
        if isinstance(error, WriteError):
            return FAILED, str(error)
    return FAILED, machine_failure(error)


def _quieten() -> None:
    """Keep what other packages say about themselves out of the user's way."""
    warnings.filterwarnings(
        "ignore", category=DeprecationWarning, module="transformer_lens"
    )
    warnings.filterwarnings("ignore", message=".*from_pretrained is deprecated.*")
    # "." is no line break, with which the message begins
    warnings.filterwarnings(
        "ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs"
    )
    if not sys.stderr.isatty():
        # a log gets a line of a progress bar now and then, not ten a second
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


def entry() -> None:
    """Run the process ``saereg-bench``."""
    keep_printing()
    interrupt_on_signals()
    try:
        main()
    finally:
        # --help and bad input end before anything could have been streamed
        if "datasets" in sys.modules:
            from saereg_plugin.process import end_process

            end_process(sys.exc_info()[1])


if __name__ == "__main__":
    entry()
