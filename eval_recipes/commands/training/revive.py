"""``saereg-bench revive``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from eval_recipes.commands.console import (
    INTERRUPTED,
    open_console,
    require_bench,
    shown,
    working,
)

_TRAINING, _MEASURE = "Training", "Measure"


def revive(
    release: Annotated[
        str, Argument(help="Release: a folder that saereg-bench train wrote.")
    ],
    out: Annotated[
        Path,
        Option(help="Folder of the trained arms and the comparison; resumes."),
    ],
    control: Annotated[
        str | None,
        Option(
            help="Release of the width-matched control (train --match-alive); without it dead latents "
            "are compared with none."
        ),
    ] = None,
    latents: Annotated[
        int,
        Option(
            help="Dead latents that each SAE is given back, at most.",
            min=1,
            rich_help_panel=_TRAINING,
        ),
    ] = 32,
    steps: Annotated[
        int, Option(help="Training steps.", min=1, rich_help_panel=_TRAINING)
    ] = 100,
    dead_after: Annotated[
        int,
        Option(
            help="A latent is dead if it did not fire in as many steps at the end of training.",
            min=1,
            rich_help_panel=_TRAINING,
        ),
    ] = 100,
    lr: Annotated[
        float | None,
        Option(
            help="Learning rate of Adam.",
            show_default="the release's",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    encoder_scale: Annotated[
        float,
        Option(
            help="Norm of a re-seeded encoder over the mean norm of the alive encoders.",
            min=0.0,
            rich_help_panel=_TRAINING,
        ),
    ] = 0.5,
    heldout_tokens: Annotated[
        int,
        Option(
            help="Tokens of held-out text, or rows of another source.",
            min=1,
            rich_help_panel=_MEASURE,
        ),
    ] = 65_536,
    loss_contexts: Annotated[
        int,
        Option(
            help="Contexts for the cross-entropy; 0 for none.",
            min=0,
            rich_help_panel=_MEASURE,
        ),
    ] = 64,
    least_gain: Annotated[
        float,
        Option(
            help="Smallest change of the explained variance that a verdict calls one.",
            min=0.0,
            rich_help_panel=_MEASURE,
        ),
    ] = 1e-3,
    device: Annotated[
        str,
        Option(help="auto (cuda, else mps, else cpu), or a torch device."),
    ] = "auto",
    fresh: Annotated[
        bool,
        Option("--fresh", help="Train anew: remove what an earlier run wrote."),
    ] = False,
) -> None:
    """
    Give dead latents back to the SAEs of a release, and measure what they gain.

    Dead latents are re-seeded from residuals and trained for a few steps, next to the same SAEs
    trained on as they were. The width-matched control is given as many more latents. Deaths
    whose latents help more than the control's when they are given back are pathological.
    """
    require_bench("revive")
    from eval_recipes.revival.comparison import compare
    from eval_recipes.running.context import RunContext
    from eval_recipes.running.run import subjects_of
    from saereg_plugin.machine import resolve_device
    from saereg_plugin.revival.training import plan_revival, run_revival

    console = open_console()

    def say(line: str) -> None:
        console.print(shown(line))

    with working():
        plan = plan_revival(
            release,
            control,
            latents=latents,
            steps=steps,
            dead_after=dead_after,
            lr=lr,
            encoder_scale=encoder_scale,
            device=device,
        )
        for group, reason in plan.skipped.items():
            say(f"{group} is left out: {reason}.")
        trained = run_revival(
            plan, out / "release", name=f"{out.name}-revive", fresh=fresh, progress=say
        )
        if trained.release is None:
            say(f"Interrupted; the same command resumes from the checkpoint in {out}.")
            raise typer.Exit(INTERRUPTED)
        context = RunContext(
            subjects=subjects_of(str(out / "release")),
            out=out,
            corpus=plan.sweep.corpus,
            heldout_tokens=heldout_tokens,
            device=resolve_device(device),
        )
        found = compare(
            plan, context, loss_contexts=loss_contexts, least_gain=least_gain
        )
    path = found.write(
        out / "revival.json",
        release=release,
        control=control,
        latents=latents,
        steps=steps,
        dead_after=dead_after,
        heldout_tokens=heldout_tokens,
        loss_contexts=loss_contexts,
        encoder_scale=encoder_scale,
        least_gain=least_gain,
    )
    _print_gains(found.frame)
    for sentence in found.verdicts.values():
        console.print(shown(sentence), soft_wrap=True)
    console.print(f"Wrote {shown(path)}.")


def _print_gains(frame: Any) -> None:
    """Print the gains of each group, mean over its seeds."""
    from eval_recipes.statistics.interval import Interval
    from eval_recipes.tables.table import cell, plain_table

    table = plain_table("Gain of the latents [95 % interval], mean over seeds")
    for head in ("group", "figure", "gain", "n"):
        table.add_column(head)
    mean = frame.loc[frame["seed"].isna()]
    for row in mean.to_dict("records"):
        low, high = (
            None if row[end] != row[end] else row[end] for end in ("low", "high")
        )
        found = Interval(row["value"], low, high, int(row["n"]))
        figure = row["figure"].replace("_", " ")
        table.add_row(shown(row["group"]), figure, shown(cell(found)), str(row["n"]))
    open_console(soft_wrap=False).print(table)
