"""``saereg-bench speed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.markup import escape
from rich.table import Table
from typer import Option

from eval_recipes.commands.console import open_console, require_bench, working
from eval_recipes.commands.flags import listed


def speed(
    shape: Annotated[
        list[str] | None,
        Option(help="d_in,d_sae,k,batch of a training step; repeat for several."),
    ] = None,
    suite: Annotated[
        list[str] | None,
        Option(
            help="training, memory, variants, growth, streams, steering, activations, screening, dead; and by "
            "name only: evaluations (half an hour), matching (half an hour), matching-large (quarter of an hour), "
            "heldout (the SAEs of --release). "
            "By commas or repetition."
        ),
    ] = None,
    repeats: Annotated[int, Option(help="Timed steps of each implementation.")] = 5,
    device: Annotated[
        str, Option(help="Torch device; auto: cuda, else mps, else cpu.")
    ] = "auto",
    seed: Annotated[int, Option(help="Seed of inputs and intervals.")] = 0,
    release: Annotated[
        str | None,
        Option(
            help="Release whose SAEs are measured (heldout), or the first two matched."
        ),
    ] = None,
    out: Annotated[
        Path | None, Option(help="JSON file for rows and machine facts.")
    ] = None,
    plot: Annotated[
        Path | None, Option(help="PNG file for the curves of the suite screening.")
    ] = None,
) -> None:
    """
    Time this package against SAELens, and sparsify and dictionary_learning if installed.

    Implementations take turns on the same batches; ratios are times over ours. Let the
    machine do nothing else meanwhile.
    """
    require_bench("speed")
    from eval_recipes.speed.measurement import DEFAULT_SHAPES, SpeedConfig, parse_shape
    from eval_recipes.speed.run import HEADINGS, chosen_suites, formatted, run_speed
    from eval_recipes.speed.screening import plot_screening, require_picture
    from saereg_plugin.machine import resolve_device

    place = resolve_device(device)
    suites = chosen_suites(listed(suite))
    if plot is not None:
        require_picture(plot, suites)
    config = SpeedConfig(
        shapes=tuple(parse_shape(text) for text in shape or ()) or DEFAULT_SHAPES,
        repeats=repeats,
        device=place,
        seed=seed,
        release=release,
    )
    console = open_console(soft_wrap=False)
    with working():
        console.print(f"Device {place}.")
        frame = run_speed(config, suites, out=out)
        if plot is not None:
            plot_screening(frame.to_dict(orient="records"), plot)
    table = Table(*HEADINGS, box=None, pad_edge=False)
    for row in frame.to_dict(orient="records"):
        table.add_row(*(escape(cell) for cell in formatted(row)))
    console.print(table)
