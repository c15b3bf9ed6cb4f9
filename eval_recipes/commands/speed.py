"""``saereg-bench speed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.markup import escape
from rich.table import Table
from typer import Option

from eval_recipes.commands.console import open_console, require_bench


def speed(
    shape: Annotated[
        list[str] | None,
        Option(help="d_in,d_sae,k,batch of a training step; repeat for several."),
    ] = None,
    suite: Annotated[
        list[str] | None,
        Option(
            help="training, memory, variants, growth, streams, steering; and by name only: evaluations "
            "(half an hour), matching (half an hour), matching-large (quarter of an hour). "
            "Repeat for several."
        ),
    ] = None,
    repeats: Annotated[int, Option(help="Timed steps of each implementation.")] = 5,
    device: Annotated[str, Option(help="Torch device.")] = "cpu",
    seed: Annotated[int, Option(help="Seed of inputs and intervals.")] = 0,
    release: Annotated[
        str | None, Option(help="Release whose first two SAEs are matched, too.")
    ] = None,
    out: Annotated[
        Path | None, Option(help="JSON file for rows and machine facts.")
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

    suites = chosen_suites(suite or ())
    config = SpeedConfig(
        shapes=tuple(parse_shape(text) for text in shape or ()) or DEFAULT_SHAPES,
        repeats=repeats,
        device=device,
        seed=seed,
        release=release,
    )
    frame = run_speed(config, suites, out=out)
    table = Table(*HEADINGS, box=None, pad_edge=False)
    for row in frame.to_dict(orient="records"):
        table.add_row(*(escape(cell) for cell in formatted(row)))
    open_console(soft_wrap=False).print(table)
