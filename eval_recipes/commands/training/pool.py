"""``saereg-bench pool``."""

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


def pool(
    release: Annotated[
        str, Argument(help="Release: a folder that saereg-bench train wrote.")
    ],
    out: Annotated[
        Path,
        Option(help="Folder of the trained SAEs and the comparison; resumes."),
    ],
    group: Annotated[
        list[str] | None,
        Option(
            help="Group to pool, repeatable.",
            show_default="all",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int,
        Option(
            help="Training steps that follow the pool.",
            min=1,
            rich_help_panel=_TRAINING,
        ),
    ] = 100,
    threshold: Annotated[
        float,
        Option(
            help="Latents whose decoder rows have a larger cosine are duplicates.",
            min=0.0,
            max=1.0,
            rich_help_panel=_TRAINING,
        ),
    ] = 0.7,
    fresh_seeds: Annotated[
        int,
        Option(
            help="SAEs of the pooled width that start from random weights; as many controls.",
            min=2,
            rich_help_panel=_TRAINING,
        ),
    ] = 2,
    lr: Annotated[
        float | None,
        Option(
            help="Learning rate of Adam.",
            show_default="the release's",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    heldout_tokens: Annotated[
        int,
        Option(
            help="Tokens of held-out text, or rows of another source.",
            min=1,
            rich_help_panel=_MEASURE,
        ),
    ] = 65_536,
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
    Start one SAE from the unique latents of all seeds of a group, and compare it.

    It is trained for a few steps, next to SAEs of the same width from random weights: fresh
    seeds for as many steps, and a control for what the seeds and the pool cost together.
    """
    require_bench("pool")
    from eval_recipes.pooling.comparison import compare
    from eval_recipes.running.context import RunContext
    from eval_recipes.running.run import subjects_of
    from saereg_plugin.machine import resolve_device
    from saereg_plugin.pooling.training import plan_pool, run_pool

    console = open_console()

    def say(line: str) -> None:
        console.print(shown(line))

    with working():
        plan = plan_pool(
            release,
            groups=group or (),
            steps=steps,
            fresh_seeds=fresh_seeds,
            threshold=threshold,
            lr=lr,
            device=device,
        )
        for name, reason in plan.skipped.items():
            say(f"{name} is left out: {reason}.")
        for one in plan.pools:
            say(
                f"{one.group}: {one.union.width} unique of {len(one.union.source)} latents that fired, "
                f"of {len(one.seeds)} SAEs of {one.d_sae}."
            )
        trained = run_pool(plan, out, fresh=fresh, progress=say)
        if any(result.release is None for result in trained.values()):
            say(f"Interrupted; the same command resumes from the checkpoint in {out}.")
            raise typer.Exit(INTERRUPTED)
        subjects = subjects_of(release)
        for folder in trained:
            subjects += subjects_of(str(out / folder))
        context = RunContext(
            subjects=subjects,
            out=out,
            corpus=plan.sweep.corpus,
            heldout_tokens=heldout_tokens,
            device=resolve_device(device),
        )
        found = compare(plan, context)
    path = found.write(
        out / "pool.json",
        release=release,
        steps=steps,
        threshold=threshold,
        heldout_tokens=heldout_tokens,
    )
    _print_figures(found.frame)
    for sentence in found.verdicts.values():
        console.print(shown(sentence), soft_wrap=True)
    console.print(f"Wrote {shown(path)}.")


def _print_figures(frame: Any) -> None:
    """Print the figures of whole arms."""
    from eval_recipes.pooling.comparison import ARMS
    from eval_recipes.statistics.interval import Interval
    from eval_recipes.tables.table import cell, plain_table

    table = plain_table("Pooled SAEs and others [95 % interval]")
    for head in ("group", "figure", "of", "against", "value", "n"):
        table.add_column(head)
    for row in frame.loc[frame["of"].isin(ARMS)].to_dict("records"):
        low, high = (
            None if row[end] != row[end] else row[end] for end in ("low", "high")
        )
        found = Interval(row["value"], low, high, int(row["n"]))
        figure, against = row["figure"].replace("_", " "), row["against"] or ""
        table.add_row(
            *map(shown, (row["group"], figure, row["of"], against, cell(found))),
            str(row["n"]),
        )
    open_console(soft_wrap=False).print(table)
