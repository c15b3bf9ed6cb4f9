"""``saereg-bench show``: what a result rests on, as a person reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

show = typer.Typer(
    help="Show what a result rests on, as a person reads it.", no_args_is_help=True
)


def steering(
    latent: Annotated[int, typer.Option(help="Id of the latent in the SAE.")],
    results: Annotated[
        Path, typer.Option(help="Folder of results that steering wrote to.")
    ] = Path("eval_results"),
    sae_id: Annotated[
        str | None, typer.Option(help="SAE id, if the folder has several.")
    ] = None,
    amount: Annotated[
        float | None, typer.Option(help="One strength of a sweep; all else.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Show the texts of the controls, too.")
    ] = False,
) -> None:
    """Print a steered latent's concept, its prompts, both texts of each, and their scores."""
    from eval_recipes.steering.results.show import show_latent, steering_result
    from saereg_plugin.errors import printable

    path = steering_result(results, sae_id)
    typer.echo(printable(show_latent(path, latent, amount=amount, controls=controls)))


show.command("steering")(steering)


@show.callback()
def _group() -> None:
    """Keep the name of the evaluation in the command while there is only one."""
