"""What the steering study runs: settings, and every way of steering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Scale = Literal["small", "paper"]

PAPER_ALPHA = 5.0
PUBLISHED = "published"
RATIO = "norm_ratio"

RATIOS = (0.06, 0.25, 0.5, 1.0)
"""Strengths over the median residual norm, tried where the paper's own ratio is not known."""

GRID_AMOUNTS = {
    "fixed": [5.0, 10.0, 20.0],
    "resid_rms": [0.6, 1.0, 3.0],
    "target_preact": [1.0, 5.0, 10.0],
}
"""Strengths of the paper's grid by mode."""


@dataclass(frozen=True, kw_only=True)
class SteeringStudy:
    """
    What is run.

    Attributes:
        scale: "small": the embedded model; "paper": pythia-70m-deduped and the Pile.
        release: SAEs to steer with; None trains them.
        group: regularised group of the release.
        baseline: its unregularised group.
        group_by: how groups and seeds are read from the release's ids, if it does not say.
        n_latents: candidates of each SAE.
        paper_norm: median residual norm of the paper's model at its hook; None leaves the
            ratio open, and ``RATIOS`` are run.
        grid: run the paper's grid, too: decoding x positions x strengths, seed 0.
        grid_latents: candidates of each SAE in the grid.
        settings: options of the evaluation that all runs share, such as judges.
        corpus: text of explanations; None takes the scale's.
        dtype: data type of the language model.
        heldout_tokens: held-out text that stability's evaluation reads.
    """

    scale: Scale = "small"
    release: str | None = None
    group: str = "l2"
    baseline: str = "none"
    group_by: str | None = None
    n_latents: int = 300
    paper_norm: float | None = None
    grid: bool = False
    grid_latents: int = 50
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    corpus: str | None = None
    dtype: str = "float32"
    heldout_tokens: int = 32_768


@dataclass(frozen=True)
class SteeringRun:
    """One way of steering: a results folder, options, and the seeds it is done for."""

    name: str
    options: Mapping[str, Any]
    seeds: tuple[int, ...] | None = None
    """None is all."""


def runs_of(study: SteeringStudy) -> list[SteeringRun]:
    """Return every way of steering, the published setting first."""
    runs = [
        SteeringRun(PUBLISHED, {"n_latents": study.n_latents, "amounts": [PAPER_ALPHA]})
    ]
    if study.paper_norm is not None or study.scale == "small":
        amounts = (
            list(RATIOS)
            if study.paper_norm is None
            else [PAPER_ALPHA / study.paper_norm]
        )
        runs.append(
            SteeringRun(
                RATIO,
                {
                    "n_latents": study.n_latents,
                    "strength_mode": "norm_ratio",
                    "amounts": amounts,
                },
            )
        )
    return [*runs, *(_grid(study) if study.grid else [])]


def _grid(study: SteeringStudy) -> list[SteeringRun]:
    """Return the paper's grid: two ways of decoding, two of positions, three of strength."""
    return [
        SteeringRun(
            f"grid-{mode}-{'greedy' if greedy else 'sampled'}-{positions}",
            {
                "n_latents": study.grid_latents,
                "strength_mode": mode,
                "amounts": amounts,
                "greedy": greedy,
                "positions": positions,
            },
            seeds=(0,),
        )
        for mode, amounts in GRID_AMOUNTS.items()
        for greedy in (True, False)
        for positions in ("generation", "all")
    ]
