"""``saereg-bench demo``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from eval_recipes.commands.console import (
    FAILED,
    INTERRUPTED,
    open_console,
    print_outcome,
    require_bench,
    shown,
    working,
)


def demo(
    out: Annotated[Path, Option(help="Folder for release and results.")] = Path(
        "saereg-demo"
    ),
    device: Annotated[
        str, Option(help="Torch device; auto: cuda, else mps, else cpu.")
    ] = "auto",
) -> None:
    """
    Train TopK SAEs with and without L2 on a small real model, three seeds each, and compare.

    Needs no hub: model and text come from registry packages. Ctrl-C is safe; run it again.
    """
    require_bench("demo")
    from eval_recipes.report.page import PAGE, require_page, write_report
    from eval_recipes.studies.demo import L2, PLAIN, evaluate_demo, train_demo
    from eval_recipes.tables.run_table import read_differences
    from saereg_plugin.machine import peak_memory_gib, resolve_device

    console = open_console(soft_wrap=False)

    def tell(line: str) -> None:
        console.print(shown(line))

    require_page(out / "results" / PAGE)
    place = resolve_device(device)
    tell(f"Device {place}.")
    started = time.perf_counter()
    with working():
        # a demo that was begun keeps the device it was begun on
        trained = train_demo(out, device=device, progress=tell)
    if trained.release is None:
        console.print("Interrupted; 'saereg-bench demo' resumes from the checkpoint.")
        raise typer.Exit(INTERRUPTED)
    with working():
        outcome = evaluate_demo(out, device=place, progress=tell)
    failed = print_outcome(outcome, console)
    console.print("\n[bold]What this says[/]")
    for sentence in read_differences(outcome.differences, group=L2, other=PLAIN):
        console.print(f"- {shown(sentence)}")
    console.print(
        f"\nTook {(time.perf_counter() - started) / 60:.1f} minutes (training "
        f"{trained.seconds / 60:.1f}) and {peak_memory_gib():.1f} GiB at the most."
    )
    page = write_report(
        out / "results", release=out / "release", failures=outcome.failures
    )
    console.print(f"Open {shown(page)} in a browser.", soft_wrap=True)
    if failed or trained.stopped:
        raise typer.Exit(FAILED)
