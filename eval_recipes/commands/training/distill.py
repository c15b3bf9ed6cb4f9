"""``saereg-bench distill``."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from eval_recipes.commands.console import (
    FAILED,
    INTERRUPTED,
    open_console,
    require_bench,
    shown,
    working,
)
from eval_recipes.commands.flags import listed

_CORE, _TRAINING, _MEASURE = "Core", "Training", "Measure"


class GradientChoice(str, Enum):
    """Choices of ``--gradient``."""

    activations = "activations"
    reconstruction = "reconstruction"


def distill(
    source: Annotated[
        str,
        Argument(
            help="Release folder, whose SAEs are the first cycle, or YAML file of a sweep."
        ),
    ],
    out: Annotated[
        Path,
        Option(help="Folder of the releases, cores and comparison; resumes."),
    ],
    group: Annotated[
        str | None,
        Option(help="Group whose SAEs are distilled, if there are several."),
    ] = None,
    cycles: Annotated[
        int,
        Option(
            help="Trainings in a row, the first one included.",
            min=2,
            rich_help_panel=_TRAINING,
        ),
    ] = 3,
    tokens: Annotated[
        int | None,
        Option(
            help="Training tokens of each cycle, of a sweep's file.",
            show_default="the file's",
            min=1,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        Option(
            help="matched, random, frequency, or none; by commas or repetition.",
            show_default="all three",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    share: Annotated[
        float,
        Option(
            help="Share of the total attribution that the core reaches.",
            min=0,
            max=1,
            rich_help_panel=_CORE,
        ),
    ] = 0.9,
    quantile: Annotated[
        float,
        Option(
            help="Quantile over tokens that is a latent's score.",
            min=0,
            max=1,
            rich_help_panel=_CORE,
        ),
    ] = 0.99,
    score_tokens: Annotated[
        int,
        Option(
            help="Training tokens that latents are ranked on.",
            min=1,
            rich_help_panel=_CORE,
        ),
    ] = 16_384,
    gradient: Annotated[
        GradientChoice,
        Option(
            help="Where the loss is differentiated: at the activations, one pass for all SAEs; or at "
            "each SAE's reconstruction.",
            rich_help_panel=_CORE,
        ),
    ] = GradientChoice.activations,
    heldout_tokens: Annotated[
        int, Option(help="Tokens of held-out text.", min=1, rich_help_panel=_MEASURE)
    ] = 65_536,
    loss_contexts: Annotated[
        int,
        Option(
            help="Contexts for the cross-entropy; 0 for none.",
            min=0,
            rich_help_panel=_MEASURE,
        ),
    ] = 32,
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
    Distil a core of latents over several trainings, next to controls (DMSAE).

    Latents are ranked by attribution of the next-token loss. The smallest core that reaches the
    share keeps its encoder vectors, frozen, in the next training; all else is drawn anew. The
    controls are one SAE trained on as many tokens, a random core, and a core by firing rate.
    """
    require_bench("distill")
    from eval_recipes.distillation.comparison import compare
    from eval_recipes.running.context import RunContext
    from eval_recipes.running.run import subjects_of
    from saereg_plugin.distillation.settings import CONTROLS, read_distill
    from saereg_plugin.distillation.training import distill as run_distill
    from saereg_plugin.errors import InputError
    from saereg_plugin.machine import resolve_device

    console = open_console()

    def say(line: str) -> None:
        console.print(shown(line))

    named = listed(control) or list(CONTROLS)
    settings = read_distill(
        source,
        group=group,
        device=device,
        cycles=cycles,
        share=share,
        quantile=quantile,
        score_tokens=score_tokens,
        controls=() if named == ["none"] else tuple(named),
        gradient=gradient.value,
    )
    if tokens is not None:
        if settings.first is not None:
            raise InputError(
                "--tokens belongs to the file of a sweep; the SAEs of a release are trained already. "
                "Leave it out."
            )
        settings = replace(settings, sweep=replace(settings.sweep, tokens=tokens))
    with working():
        found = run_distill(settings, out, fresh=fresh, progress=say)
        if found is None:
            say(f"Interrupted; the same command resumes from the checkpoint in {out}.")
            raise typer.Exit(INTERRUPTED)
        groups = [g for part in settings.parts for g in settings.groups_in(part)]
        subjects = [
            subject
            for release in found.releases.values()
            for subject in subjects_of(str(release.folder))
            if subject.group in groups
        ]
        context = RunContext(
            subjects=subjects,
            out=out,
            corpus=settings.sweep.corpus,
            heldout_tokens=heldout_tokens,
            device=resolve_device(device),
        )
        compared = compare(settings, found.cores, context, loss_contexts=loss_contexts)
    path = compared.write(
        out / "distillation.json",
        source=source,
        group=group,
        cycles=cycles,
        controls=list(settings.controls),
        heldout_tokens=heldout_tokens,
        loss_contexts=loss_contexts,
        training_seconds=found.seconds,
        stopped=found.stopped,
        **settings.marks(),
    )
    _print_figures(compared.frame)
    for sentence in compared.sentences:
        console.print(shown(sentence), soft_wrap=True)
    console.print(f"Wrote {shown(path)}.")
    if found.stopped:
        raise typer.Exit(FAILED)


_SHOWN = ("explained_variance", "l0", "l0_core", "ce_gap")
_COUNTED = (
    "core_frozen",
    "core_promoted",
    "core_kept",
    "core_kept_by_attribution",
    "core_agreement",
)


def _print_figures(frame: Any) -> None:
    """Print the figures of each group, mean over seeds or pairs of them."""
    from eval_recipes.statistics.interval import Interval
    from eval_recipes.tables.table import cell, plain_table

    table = plain_table("Mean over seeds [95 % interval over contexts]")
    for head in ("group", *_SHOWN, *_COUNTED):
        table.add_column(head.replace("_", " "))
    mean = frame.loc[frame["seed"].isna()]
    for group in dict.fromkeys(mean["group"]):
        own = mean.loc[mean["group"] == group].set_index("figure")
        cells: list[str] = []
        for figure in (*_SHOWN, *_COUNTED):
            if figure not in own.index:
                cells.append("")
                continue
            row = own.loc[figure]
            low, high = (
                None if row[end] != row[end] else row[end] for end in ("low", "high")
            )
            text = cell(Interval(row["value"], low, high, int(row["n"])))
            if row["null"] is not None and row["null"] == row["null"]:
                text += f" (chance {row['null']:.2g})"
            cells.append(shown(text))
        table.add_row(shown(group), *cells)
    open_console(soft_wrap=False).print(table)
