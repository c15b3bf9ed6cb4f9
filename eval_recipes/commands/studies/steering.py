"""``saereg-bench study steering``: whether latents of regularised SAEs steer better."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from eval_recipes.commands.console import (
    FAILED,
    INTERRUPTED,
    open_console,
    require_bench,
    shown,
    working,
)

_DATA, _STEERING = "Model and data", "Steering"
_CHAT, _OUTPUT = "Chat model", "Output"


class Scale(str, Enum):
    """Sizes of a study."""

    small = "small"
    paper = "paper"


def steering(
    out: Annotated[
        Path,
        Option(help="Folder for SAEs, results and table.", rich_help_panel=_OUTPUT),
    ],
    scale: Annotated[
        Scale,
        Option(
            help="small: the embedded model and text; paper: pythia-70m-deduped and the Pile.",
            rich_help_panel=_DATA,
        ),
    ] = Scale.small,
    sae_release: Annotated[
        str | None,
        Option(
            help="Release to steer with, instead of training one: a folder, a public name, or "
            "owner/name[@revision].",
            rich_help_panel=_DATA,
        ),
    ] = None,
    group: Annotated[
        str, Option(help="Its regularised group.", rich_help_panel=_DATA)
    ] = "l2",
    baseline: Annotated[
        str, Option(help="Its unregularised group.", rich_help_panel=_DATA)
    ] = "none",
    group_by: Annotated[
        str | None,
        Option(
            help="Regular expression with (?P<seed>...), or YAML file.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    allow_pickle: Annotated[
        bool,
        Option(
            "--allow-pickle",
            help="Read SAEs that are pickle files, tensors only.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    latents: Annotated[
        int, Option(help="Candidates of each SAE.", rich_help_panel=_STEERING)
    ] = 300,
    ratio_latents: Annotated[
        int,
        Option(
            help="Candidates of each SAE at strengths in residual norms.",
            rich_help_panel=_STEERING,
        ),
    ] = 50,
    paper_norm: Annotated[
        float | None,
        Option(
            help="Median residual norm of the paper's model, above 0; without it several ratios "
            "are run.",
            rich_help_panel=_STEERING,
        ),
    ] = None,
    grid: Annotated[
        bool,
        Option(
            "--grid",
            help="Run the paper's grid of decoding, positions and strengths, too.",
            rich_help_panel=_STEERING,
        ),
    ] = False,
    grid_latents: Annotated[
        int,
        Option(help="Candidates of each SAE in the grid.", rich_help_panel=_STEERING),
    ] = 50,
    device: Annotated[
        str,
        Option(
            help="Torch device; auto: cuda, else mps, else cpu.", rich_help_panel=_DATA
        ),
    ] = "auto",
    llm_dtype: Annotated[
        str,
        Option(
            help="Data type of the language model; auto: the fastest of the device.",
            rich_help_panel=_DATA,
        ),
    ] = "auto",
    judge_model: Annotated[
        str | None,
        Option(
            help="Chat model that judges, too; the paper's is gpt-5.1.",
            rich_help_panel=_CHAT,
        ),
    ] = None,
    judge_base_url: Annotated[
        str | None,
        Option(
            help="OpenAI-compatible server; the key is read from OPENAI_API_KEY.",
            rich_help_panel=_CHAT,
        ),
    ] = None,
    explainer: Annotated[
        str,
        Option(
            help="'tokens' or 'n2g' (no server), or 'judge': the chat model.",
            rich_help_panel=_CHAT,
        ),
    ] = "tokens",
    judge_max_calls: Annotated[
        int | None,
        Option(
            help="Requests to the chat model that all runs together may send.",
            min=1,
            rich_help_panel=_CHAT,
        ),
    ] = None,
    judge_max_tokens: Annotated[
        int | None,
        Option(
            help="Tokens of the chat model that all runs together may use.",
            min=1,
            rich_help_panel=_CHAT,
        ),
    ] = None,
    artifacts: Annotated[
        Path | None,
        Option(help="Folder of what is kept between runs.", rich_help_panel=_OUTPUT),
    ] = None,
) -> None:
    """
    Weight regularisation and steering (arXiv 2603.04198): do regularised latents steer better?

    It can be interrupted at any time: the same command goes on, and nothing that was paid for
    is asked again. Writes results, their texts, table.md and results.json.
    """
    require_bench("study steering")
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
    with working():
        outcome = run_steering_study(
            SteeringStudy(
                scale=scale.value,
                release=sae_release,
                group=group,
                baseline=baseline,
                group_by=group_by,
                allow_pickle=allow_pickle,
                n_latents=latents,
                ratio_latents=ratio_latents,
                paper_norm=paper_norm,
                grid=grid,
                grid_latents=grid_latents,
                settings=settings,
                device=device,
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
    for page in outcome.pages:
        console.print(f"Open {shown(page)} in a browser.")
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
    """Return options of steering: offline judges, and first a chat model if it is named."""
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
