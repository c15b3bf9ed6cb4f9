"""``saereg-bench study whisper``: SAE edits against Whisper's hallucinations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from eval_recipes.commands.console import (
    INTERRUPTED,
    open_console,
    require_bench,
    shown,
    working,
)
from eval_recipes.commands.flags import listed, listed_numbers


def whisper(
    out: Annotated[Path, Option(help="Folder for SAEs, transcripts and table.")],
    model: Annotated[
        str, Option(help="A Whisper model: embedded, a folder, or a hub repository.")
    ] = "whisper-tiny.en",
    speech: Annotated[
        str, Option(help="Clips with transcripts: embedded data, or a folder.")
    ] = "speech",
    non_speech: Annotated[
        str, Option(help="Clips without speech: embedded data, or a folder.")
    ] = "non-speech",
    point: Annotated[
        list[str] | None,
        Option(
            help="Layers of the encoder, by commas or repetition, the last one at the end; by "
            "default the model's last two."
        ),
    ] = None,
    seed: Annotated[
        list[str] | None,
        Option(
            metavar="SEEDS",
            help="Seeds of the SAEs, by commas or repetition; 0, 1 and 2 by default.",
        ),
    ] = None,
    device: Annotated[
        str, Option(help="Torch device; auto: cuda, else mps, else cpu.")
    ] = "auto",
) -> None:
    """
    SAE edits against Whisper's hallucinations (arXiv 2606.07473): fewer, at which word error rate?

    It can be interrupted at any time: the same command resumes. Writes SAEs, transcripts of every
    condition, table.md, results.json and whisper-trade-off.png.
    """
    require_bench("study whisper")
    from eval_recipes.studies.whisper.settings import WhisperStudy
    from eval_recipes.studies.whisper.study import run_whisper_study

    lists = {"points": listed(point), "seeds": listed_numbers("--seed", seed, int)}
    given: dict[str, Any] = {
        name: tuple(values) for name, values in lists.items() if values
    }
    study = WhisperStudy(
        model=model,
        speech=speech,
        noise=non_speech,
        device=device,
        **given,
    )
    console = open_console()
    with working():
        outcome = run_whisper_study(
            study, out, progress=lambda line: console.print(shown(line))
        )
    if outcome.table is None:
        console.print(f"Interrupted; the same command resumes in {shown(out)}.")
        raise typer.Exit(INTERRUPTED)
    console.print(shown(outcome.table.read_text(encoding="utf-8")))
