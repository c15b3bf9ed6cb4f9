"""``saereg-bench study steering``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from eval_recipes.commands.console import open_console, shown
from eval_recipes.commands.status import FAILED, INTERRUPTED


class _Scale(str, Enum):
    small = "small"
    paper = "paper"


def steering(
    out: Annotated[Path, typer.Option(help="Folder for SAEs, results and table.")],
    scale: Annotated[
        _Scale,
        typer.Option(
            help="small: the embedded model and text; paper: pythia-70m-deduped and the Pile."
        ),
    ] = _Scale.small,
    sae_release: Annotated[
        str | None,
        typer.Option(help="Release to steer with, instead of training one."),
    ] = None,
    group: Annotated[str, typer.Option(help="Its regularised group.")] = "l2",
    baseline: Annotated[str, typer.Option(help="Its unregularised group.")] = "none",
    group_by: Annotated[
        str | None,
        typer.Option(help="Regular expression with (?P<seed>...), or YAML file."),
    ] = None,
    latents: Annotated[int, typer.Option(help="Candidates of each SAE.")] = 300,
    ratio_latents: Annotated[
        int,
        typer.Option(help="Candidates of each SAE at strengths in residual norms."),
    ] = 50,
    paper_norm: Annotated[
        float | None,
        typer.Option(
            help="Median residual norm of the paper's model, above 0; without it several ratios "
            "are run."
        ),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid",
            help="Run the paper's grid of decoding, positions and strengths, too.",
        ),
    ] = False,
    grid_latents: Annotated[
        int, typer.Option(help="Candidates of each SAE in the grid.")
    ] = 50,
    llm_dtype: Annotated[
        str,
        typer.Option(
            help="Data type of the language model; auto: the fastest of the device."
        ),
    ] = "auto",
    judge_model: Annotated[
        str | None,
        typer.Option(help="Chat model that judges, too; the paper's is gpt-5.1."),
    ] = None,
    judge_base_url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible server; the key is read from OPENAI_API_KEY."
        ),
    ] = None,
    explainer: Annotated[
        str, typer.Option(help="'tokens' (no server), or 'judge': the chat model.")
    ] = "tokens",
    judge_max_calls: Annotated[
        int | None,
        typer.Option(
            help="Requests to the chat model that all runs together may send.", min=1
        ),
    ] = None,
    judge_max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the chat model that all runs together may use.", min=1
        ),
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(help="Folder of what is kept between runs."),
    ] = None,
) -> None:
    """
    Weight regularisation and steering (arXiv 2603.04198): do regularised latents steer better?

    It can be interrupted at any time: the same command goes on, and nothing that was paid for
    is asked again. Writes results, their texts, table.md and results.json.
    """
    from eval_recipes.studies.steering.runs import SteeringStudy
    from eval_recipes.studies.steering.study import run_steering_study

    settings = judge_settings(
        judge_model,
        judge_base_url,
        explainer,
        max_calls=judge_max_calls,
        max_tokens=judge_max_tokens,
    )
    console = open_console()
    outcome = run_steering_study(
        SteeringStudy(
            scale=scale.value,
            release=sae_release,
            group=group,
            baseline=baseline,
            group_by=group_by,
            n_latents=latents,
            ratio_latents=ratio_latents,
            paper_norm=paper_norm,
            grid=grid,
            grid_latents=grid_latents,
            settings=settings,
            dtype=llm_dtype,
        ),
        out,
        artifacts=artifacts,
        progress=lambda line: console.print(shown(line)),
    )
    if outcome.table is None:
        console.print(f"Interrupted; the same command goes on from {shown(out)}.")
        raise typer.Exit(INTERRUPTED)
    console.print(shown(outcome.table.read_text(encoding="utf-8")))
    if outcome.troubled:
        raise typer.Exit(FAILED)


def judge_settings(
    judge_model: str | None,
    judge_base_url: str | None,
    explainer: str,
    *,
    max_calls: int | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """Return options of steering: the offline judges, and first the chat model if one is named."""
    judges = ["embedding", "embedding_published", "log_probability"]
    settings: dict[str, Any] = {"judges": judges, "explainer": explainer}
    if judge_model is not None or judge_base_url is not None:
        settings["judges"] = ["chat", *judges]
    named = {
        "judge_model": judge_model,
        "judge_base_url": judge_base_url,
        "judge_max_calls": max_calls,
        "judge_max_tokens": max_tokens,
    }
    return settings | {
        name: value for name, value in named.items() if value is not None
    }
