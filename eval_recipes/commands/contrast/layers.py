"""``saereg-bench layers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from eval_recipes.commands.console import open_console, require_bench, shown, working
from eval_recipes.commands.flags import listed
from eval_recipes.commands.select import Sides

_TEXTS, _SCORE, _TASK = "Texts", "Score", "Task vector"


_BEST = "best"


def layers(
    release: Annotated[
        list[str] | None,
        Argument(help="Releases with SAEs at several layers: folders or public names."),
    ] = None,
    contrast: Annotated[
        tuple[Path, Path] | None,
        Option(
            metavar="A.txt B.txt",
            help="Texts with the target property, and texts without it; one a line.",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    out: Annotated[
        Path | None, Option(help="Folder for JSON, CSV, parquet and a plot.")
    ] = None,
    sae_id: Annotated[
        list[str] | None,
        Option(
            help="SAEs by id or shell pattern, by commas or repetition; by default all."
        ),
    ] = None,
    latents: Annotated[
        int,
        Option(
            help="Latents that each half of the texts chooses; the score is their mean.",
            min=1,
            rich_help_panel=_SCORE,
        ),
    ] = 10,
    sides: Annotated[
        Sides,
        Option(
            help="first: latents that fire more on the first texts; both: on either.",
            rich_help_panel=_SCORE,
        ),
    ] = Sides.first,
    permutations: Annotated[
        int,
        Option(
            help="Of the labels, for the null; 0 for none.",
            min=0,
            rich_help_panel=_SCORE,
        ),
    ] = 100,
    seed: Annotated[
        int,
        Option(
            help="Of halves, permutations and random decoders.",
            min=0,
            rich_help_panel=_SCORE,
        ),
    ] = 0,
    task_vector: Annotated[
        tuple[str, str] | None,
        Option(
            metavar="BASE FINETUNED",
            help="Two model folders: norm of their difference by layer, and its energy in the "
            "latents' directions.",
            rich_help_panel=_TASK,
        ),
    ] = None,
    span_latents: Annotated[
        int,
        Option(
            help="Latents whose directions span the projection.",
            show_default="3 % of d_in",
            min=0,
            rich_help_panel=_TASK,
        ),
    ] = 0,
    inject: Annotated[
        Path | None,
        Option(
            help="Model folder to write: BASE, plus alpha times the difference in some layers.",
            rich_help_panel=_TASK,
        ),
    ] = None,
    alpha: Annotated[
        float,
        Option(help="Of --inject: weight of the difference.", rich_help_panel=_TASK),
    ] = 1.0,
    inject_layers: Annotated[
        list[str] | None,
        Option(
            metavar="LAYERS",
            help="Of --inject: numbers, ranges such as 4-7, all, or best; by commas or "
            "repetition.",
            show_default="best",
            rich_help_panel=_TASK,
        ),
    ] = None,
    device: Annotated[
        str, Option(help="Torch device; auto: cuda, else mps, else cpu.")
    ] = "auto",
    allow_pickle: Annotated[
        bool,
        Option("--allow-pickle", help="Read SAEs that are pickle files, tensors only."),
    ] = False,
) -> None:
    """
    Find the layers whose latents tell two sets of texts apart; inject a task vector there.

    Next to each layer's score are a linear probe on the raw activations and an SAE with a
    random decoder. Without a release only the task vector is measured and injected.
    """
    require_bench("layers")
    from eval_recipes.layers.measurement import best_layers, measure_layers
    from eval_recipes.layers.output import (
        KIND,
        best_line,
        layers_about,
        write_layers,
    )
    from eval_recipes.running.context import RunContext
    from eval_recipes.running.run import subjects_of
    from eval_recipes.steering.select.contrast import TextSets
    from saereg_plugin.machine import resolve_device
    from saereg_plugin.owned_folder import require_owned
    from saereg_plugin.sources.task_vectors import (
        TaskVector,
        layer_norms,
        layer_numbers,
    )

    _require_together(release, contrast, out, task_vector, inject)
    if out is not None:
        require_owned(out, KIND)
    words = listed(inject_layers) or [_BEST]
    console = open_console()
    task = None if task_vector is None else TaskVector.open(*task_vector)
    if task is not None and inject is not None:
        task.require_free(inject)
        by_number = [word for word in words if word != _BEST]
        task.require_layers(layer_numbers(by_number, task.layers))
    scores: list[Any] = []
    with working():
        norms = [] if task is None else layer_norms(task)
        if release and contrast is not None and out is not None:
            paths = [str(path) for path in contrast]
            texts = TextSets.read(paths)
            subjects = [
                subject
                for name in release
                for subject in subjects_of(
                    name, patterns=listed(sae_id), allow_pickle=allow_pickle
                )
            ]
            context = RunContext(subjects, out, device=resolve_device(device))
            settings: dict[str, Any] = {
                "n_latents": latents,
                "sides": sides.value,
                "permutations": permutations,
                "seed": seed,
                "span_latents": span_latents,
            }
            scores = measure_layers(context, texts, task=task, **settings)
            about = layers_about(paths, texts, task_vector, settings)
            write_layers(out, scores, norms=norms, about=about)
    best = best_layers(scores)
    if scores:
        _print_scores(scores, norms)
        for one in best:
            console.print(shown(best_line(one)), soft_wrap=True)
        console.print(f"Wrote {shown(out)}.")
    else:
        _print_norms(norms)
    if task is not None and inject is not None:
        first = best[0].found.layer if best else None
        chosen = layer_numbers(words, task.layers, best=first)
        with working():
            task.inject(inject, alpha=alpha, layers=chosen)
        numbers = ", ".join(map(str, chosen))
        console.print(
            f"Wrote {shown(inject)}: {alpha:g} times the difference in layers {numbers}."
        )


def _require_together(
    release: list[str] | None,
    contrast: tuple[Path, Path] | None,
    out: Path | None,
    task_vector: tuple[str, str] | None,
    inject: Path | None,
) -> None:
    """Refuse flags whose partner is missing."""
    from saereg_plugin.errors import InputError

    if inject is not None and task_vector is None:
        raise InputError("--inject needs --task-vector BASE FINETUNED; expected both.")
    given = [bool(release), contrast is not None, out is not None]
    if any(given) and not all(given):
        raise InputError(
            "Scores need a release, --contrast A.txt B.txt and --out; expected all three, or none "
            "of them and --task-vector."
        )
    if not any(given) and task_vector is None:
        raise InputError(
            "Nothing to do; expected a release with --contrast and --out, or --task-vector."
        )


def _print_scores(scores: list[Any], norms: list[Any]) -> None:
    """Print a row per ``LayerScore``."""
    from eval_recipes.tables.table import NONE, cell, digits, plain_table

    def optional(value: float | None) -> str:
        return NONE if value is None else digits(value)

    table = plain_table(
        f"Held-out AUROC of {scores[0].latents.n} texts [95 % interval]"
    )
    heads = ("group", "seed", "hook", "latents", "chance", "random", "probe")
    further = ("|tau| / |theta|", "energy", "k/d") if norms else ()
    for head in (*heads, *further):
        table.add_column(head, overflow="fold")
    ratios = {one.layer: one.ratio for one in norms}
    for one in scores:
        random = None if one.random is None else one.random.interval
        row = [
            one.group,
            optional(one.subject.seed),
            one.hook,
            cell(one.latents.interval),
            optional(one.latents.null_95),
            cell(random),
            cell(one.probe.interval),
        ]
        if norms:
            energy = one.energy
            row.append(optional(ratios.get(one.layer)))
            row += [
                optional(value)
                for value in (energy and energy.kept, energy and energy.law)
            ]
        table.add_row(*map(shown, row))
    open_console(soft_wrap=False).print(table)


def _print_norms(norms: list[Any]) -> None:
    """Print a row per ``LayerNorms``."""
    from eval_recipes.tables.table import digits, plain_table

    table = plain_table("Norms of the task vector and of the base, by layer")
    for head in ("layer", "|tau|", "|theta|", "ratio"):
        table.add_column(head)
    for one in norms:
        ratio = "-" if one.ratio is None else digits(one.ratio)
        table.add_row(str(one.layer), digits(one.task), digits(one.base), ratio)
    open_console(soft_wrap=False).print(table)
