"""``saereg-bench table``, ``plot``, ``report`` and ``show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from eval_recipes.commands.console import open_console, require_bench, with_verbosity
from eval_recipes.commands.flags import listed
from eval_recipes.report import LATENTS

_NOTES = 5
_WIDTHS = "width_control.json"
_Results = Annotated[Path, Argument(help="Folder of results, ours or SAEBench's own.")]
_Metric = Annotated[
    list[str] | None,
    Option(
        "--metric",
        help="Metrics by name instead of the usual columns, by commas or repetition.",
    ),
]


def table(
    results: _Results,
    metric: _Metric = None,
    csv: Annotated[bool, Option("--csv", help="Print CSV with every digit.")] = False,
    markdown: Annotated[bool, Option("--markdown", help="Print Markdown.")] = False,
    widths: Annotated[
        bool,
        Option(
            "--widths",
            help="Compare regularised groups with their width-matched controls instead.",
        ),
    ] = False,
) -> None:
    """
    Print one row an SAE with its headline metrics; a star marks the Pareto front against L0.
    """
    require_bench("table")
    from eval_recipes.results.files import has_embedded_data
    from eval_recipes.results.headlines import choose
    from eval_recipes.results.outdated import outdated_notes
    from eval_recipes.results.sidecar import damaged_notes
    from eval_recipes.tables import table as tables
    from saereg_plugin.errors import InputError

    if csv and markdown:
        raise InputError("--csv and --markdown exclude one another.")
    if widths:
        _print_widths(results)
        return
    frame = _load(results)
    chosen = choose(frame, listed(metric))
    notes = [*outdated_notes(results), *damaged_notes(results)]
    if csv or markdown:
        typer.echo((tables.csv if csv else tables.markdown)(frame, chosen), nl=False)
        _print_notes(notes, open_console(stderr=True))
        return
    console = open_console(soft_wrap=False)
    console.print(tables.rich_table(frame, chosen))
    _print_notes(notes, console)
    if has_embedded_data(results):
        console.print(
            "Some results are from embedded data sets: not comparable with published ones."
        )


def _load(results: Path) -> Any:
    """Return the tidy table of a folder; raises InputError if it holds no result."""
    from eval_recipes.tables.table import results_frame

    return results_frame(results)


def _print_notes(notes: list[str], console: Console) -> None:
    for note in notes[:_NOTES]:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
    if len(notes) > _NOTES:
        console.print(f"and {len(notes) - _NOTES} more results like these.")


def _print_widths(results: Path) -> None:
    from eval_recipes.results.outdated import outdated_notes
    from eval_recipes.width_control.width_control import (
        compare_widths,
        comparison_table,
    )
    from saereg_plugin.errors import InputError

    found = compare_widths(results)
    if not found:
        raise InputError(
            f"{str(results)!r} holds cross_seed results of no regularised group with a control; "
            "train one with 'saereg-bench train --match-alive' and evaluate it into the same "
            "folder."
        )
    said = _write_widths(found, results)
    console = open_console(soft_wrap=False)
    console.print(comparison_table(found))
    _print_notes(outdated_notes(results), console)
    console.print(said, markup=False, soft_wrap=True)


def _write_widths(found: Any, results: Path) -> str:
    """Write the comparisons if the folder is ours; return a sentence for the user."""
    from eval_recipes.results.folder import own_folder
    from eval_recipes.width_control.width_control import write_comparisons
    from saereg_plugin.errors import InputError

    try:
        folder = own_folder(results)
    except InputError as error:
        return f"Not written: {error}"
    if folder is None:
        return f"Not written: {str(results)!r} is no folder of 'saereg-bench run'."
    folder.claim([_WIDTHS])
    return f"Wrote {write_comparisons(found, results / _WIDTHS)}"


def plot(
    results: _Results,
    metric: _Metric = None,
    out: Annotated[
        Path | None, Option(help="Folder for the plots; by default RESULTS/plots.")
    ] = None,
    cross_seed: Annotated[
        bool,
        Option(
            "--cross-seed",
            help="Draw cosine histograms and shared fractions of cross_seed instead.",
        ),
    ] = False,
    steering: Annotated[
        bool,
        Option("--steering", help="Draw success against fluency of steering instead."),
    ] = False,
) -> None:
    """
    Draw metrics against L0 with the Pareto front of each architecture and penalty.

    Writes pareto.png. Metrics of SAEs that have nearly one L0 are drawn by group instead.
    """
    require_bench("plot")
    from eval_recipes.results.headlines import choose
    from eval_recipes.results.outdated import outdated_notes
    from eval_recipes.tables.plots import (
        PLOTS,
        draw_picture,
        open_plots,
        points_by_metric,
        save_png,
    )
    from eval_recipes.tables.table import without_l0

    console = open_console(soft_wrap=False)
    if cross_seed or steering:
        from eval_recipes.steering.plots import plot_steering
        from eval_recipes.width_control.plots import draw_cross_seed
        from saereg_plugin.owned_folder import require_owned

        folder = out or results / "plots"
        require_owned(folder, PLOTS)
        pictures = draw_cross_seed(results) if cross_seed else {}
        if steering:
            pictures["steering.png"] = plot_steering(results)
        open_plots(folder, pictures)
        for name, picture in pictures.items():
            path = save_png(picture, folder / name)
            console.print(f"Wrote {path}", markup=False, soft_wrap=True)
        _print_notes(outdated_notes(results), console)
        return
    frame = _load(results)
    chosen = choose(frame, listed(metric))
    drawn = points_by_metric(frame, chosen)
    folder = open_plots(out or results / "plots", ["pareto.png"])
    path = save_png(draw_picture(drawn), folder / "pareto.png")
    console.print(f"Wrote {path}", markup=False, soft_wrap=True)
    for item in chosen:
        left_out = without_l0(frame, item)
        if left_out:
            console.print(
                f"{escape(item.title)}: {len(left_out)} SAEs without L0 are left out; "
                "evaluate them with 'core'."
            )
    _print_notes(outdated_notes(results), console)


def report(
    results: _Results,
    release: Annotated[
        Path | None,
        Option(help="Release folder of the SAEs: adds its command, hashes, training."),
    ] = None,
    out: Annotated[
        Path | None, Option(help="File to write; by default RESULTS/report.html.")
    ] = None,
    latents: Annotated[
        int, Option(help="Latents of each SAE to show with their examples.")
    ] = LATENTS,
    figures: Annotated[
        list[Path] | None,
        Option(
            help="Further folder, or JSON file, of a study or of revive, pool, distill, layers, data; "
            "repeatable."
        ),
    ] = None,
) -> None:
    """
    Write one page about a results folder; it opens in a browser, without a network.

    It shows evaluations, and what studies, revive, pool, distill, layers and data wrote there.
    """
    require_bench("report")
    from eval_recipes.report.page import write_report

    typer.echo(
        write_report(
            results, release=release, out=out, latents=latents, figures=figures or ()
        )
    )


show = typer.Typer(
    help="Show what a result rests on, as a person reads it.", no_args_is_help=True
)


@show.command()
@with_verbosity
def steering(
    latent: Annotated[int, Option(help="Id of the latent in the SAE.")],
    results: Annotated[
        Path, Option(help="Folder of results that steering wrote to.")
    ] = Path("eval_results"),
    sae_id: Annotated[
        str | None, Option(help="SAE id, if the folder has several.")
    ] = None,
    amount: Annotated[
        float | None, Option(help="One strength of a sweep; all else.")
    ] = None,
    controls: Annotated[
        bool, Option("--controls", help="Show the texts of the controls, too.")
    ] = False,
) -> None:
    """Print a steered latent's concept, its prompts, both texts of each, and their scores."""
    require_bench("show steering")
    from eval_recipes.steering.show import show_latent, steering_result
    from saereg_plugin.errors import printable

    path = steering_result(results, sae_id)
    typer.echo(printable(show_latent(path, latent, amount=amount, controls=controls)))


@show.command("latent")
@with_verbosity
def latent_(
    latent: Annotated[int, Option(help="Id of the latent in the SAE.")],
    results: Annotated[
        Path, Option(help="Folder of results that examples wrote to.")
    ] = Path("eval_results"),
    sae_id: Annotated[
        str | None, Option(help="SAE id, if the folder has several.")
    ] = None,
) -> None:
    """
    Print how often a latent fires, the logits it moves, and examples of what it fires on.

    The peak of an example is between » and «; the number is the activation there.
    """
    require_bench("show latent")
    from eval_recipes.examples.show import show_latent

    typer.echo(show_latent(results, sae_id, latent))


@show.callback()
def _group() -> None:
    """Keep the evaluation's name in the command even with a single evaluation."""
