"""Runs of the steering study, their SAEs and their outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.run import subjects_of
from eval_recipes.steering.stats.compare import SaeKey
from eval_recipes.studies.framework.definition import paper_sweep, small_sweep
from eval_recipes.studies.weight_regularization import fields, small_groups
from saereg_plugin.checks import require_count
from saereg_plugin.errors import InputError
from saereg_plugin.presets import weight_regularized_topk
from saereg_plugin.releases.release import Release
from saereg_plugin.sweeps import SweepConfig

Scale = Literal["small", "paper"]

_MAX_LATENTS = 1 << 27
_MAX_TOKENS = 1 << 40

PAPER_ALPHA = 5.0
PUBLISHED = "published"
RATIO = "norm_ratio"

PAPER_MODEL = "pythia-70m-deduped"

RATIOS = (0.25, 0.5, 1.0)
"""
Strengths over the median residual norm, tried where the paper's own ratio is not known.

Alpha 5 is .06 of it at layer 4 of the embedded model: the published run covers that end.
"""

GRID_AMOUNTS = {
    "fixed": [5.0, 10.0, 20.0],
    "resid_rms": [0.6, 1.0, 3.0],
    "target_preact": [1.0, 5.0, 10.0],
}
"""Strengths of the paper's grid by mode."""


@dataclass(frozen=True, kw_only=True)
class SteeringStudy:
    """
    Settings of the steering study.

    Attributes:
        scale: "small": the embedded model; "paper": pythia-70m-deduped and the Pile.
        release: SAEs to steer with; None trains them.
        group: regularised group of the release.
        baseline: its unregularised group.
        group_by: how groups and seeds are read from the release's ids, if it does not say.
        allow_pickle: read a release of a format that is pickle files.
        n_latents: candidates of each SAE.
        ratio_latents: candidates of each SAE at the ratio strengths, the first of the
            ``n_latents``; fewer, since these are several strengths.
        paper_norm: median residual norm of the paper's model at its hook; None leaves the
            ratio open, and on another model than the paper's ``RATIOS`` are run.
        grid: also run the paper's grid, decoding x positions x strengths, on the lowest seed
            that both groups have.
        grid_latents: candidates of each SAE in the grid.
        settings: options of the evaluation that all runs share, such as judges.
        corpus: text of explanations; None takes the scale's.
        device: torch device; "auto" is CUDA, else MPS, else the CPU.
        dtype: data type of the language model; "auto" is the one that the device is fastest in.
        heldout_tokens: held-out text that stability's evaluation reads.
    """

    scale: Scale = "small"
    release: str | None = None
    group: str = "l2"
    baseline: str = "none"
    group_by: str | None = None
    allow_pickle: bool = False
    n_latents: int = 300
    ratio_latents: int = 50
    paper_norm: float | None = None
    grid: bool = False
    grid_latents: int = 50
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    corpus: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    heldout_tokens: int = 32_768

    def __post_init__(self) -> None:
        for name in ("n_latents", "ratio_latents", "grid_latents"):
            require_count(name, getattr(self, name), most=_MAX_LATENTS)
        require_count("heldout_tokens", self.heldout_tokens, most=_MAX_TOKENS)
        norm = self.paper_norm
        if norm is not None and not (math.isfinite(norm) and norm > 0):
            raise InputError(
                f"The paper's median residual norm is {norm}; expected a number above 0. Leave "
                "it out (--paper-norm) if it is not known."
            )


@dataclass(frozen=True)
class SteeringRun:
    """One way of steering: a results folder, options, and the seeds it is done for."""

    name: str
    options: Mapping[str, Any]
    seeds: tuple[int, ...] | None = None
    """Seeds to run; None is all."""
    grid: bool = False
    """Whether it is one of the paper's grid, which is reported in one table."""


def runs_of(
    study: SteeringStudy, model: str, *, grid_seed: int | None = 0
) -> list[SteeringRun]:
    """
    Return every way of steering, the published setting first.

    ``grid_seed``: seed of the SAEs that the grid is run on; None for all.
    """
    runs = [
        SteeringRun(PUBLISHED, {"n_latents": study.n_latents, "amounts": [PAPER_ALPHA]})
    ]
    papers = model.rpartition("/")[2] == PAPER_MODEL
    if study.paper_norm is not None or not papers:
        amounts = (
            list(RATIOS)
            if study.paper_norm is None
            else [PAPER_ALPHA / study.paper_norm]
        )
        runs.append(
            SteeringRun(
                RATIO,
                {
                    "n_latents": min(study.ratio_latents, study.n_latents),
                    "strength_mode": "norm_ratio",
                    "amounts": amounts,
                },
            )
        )
    return [*runs, *(_grid(study, grid_seed) if study.grid else [])]


def _grid(study: SteeringStudy, seed: int | None) -> list[SteeringRun]:
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
            seeds=None if seed is None else (seed,),
            grid=True,
        )
        for mode, amounts in GRID_AMOUNTS.items()
        for greedy in (True, False)
        for positions in ("generation", "all")
    ]


@dataclass
class SteeringOutcome:
    """Results of the study; ``finished`` is False if training was interrupted."""

    study: SteeringStudy
    runs: list[SteeringRun] = field(default_factory=list[SteeringRun])
    finished: bool = False
    failures: list[Failure] = field(default_factory=list[Failure])
    by_run: dict[str, list[Failure]] = field(default_factory=dict[str, list[Failure]])
    """Failures of steering by the name of the run."""
    saes: dict[str, frozenset[SaeKey]] = field(
        default_factory=dict[str, frozenset[SaeKey]]
    )
    """Release and id of the SAEs by the name of the run; the folder may hold others."""
    stopped: list[str] = field(default_factory=list[str])
    """SAEs taken out of training, one line each, and groups of which none is left."""
    table: Path | None = None
    """The written table; None if training was interrupted."""
    pages: list[Path] = field(default_factory=list[Path])
    """Report page of each way of steering that has results, in its folder of results."""

    @property
    def troubled(self) -> bool:
        """Whether an SAE or an evaluation failed."""
        return bool(self.failures or self.stopped)


PAPER_K = 40


def sweep_of(scale: Scale) -> SweepConfig:
    """Return the training of both groups in three seeds."""
    if scale == "paper":
        preset = weight_regularized_topk(k=PAPER_K)
        groups = {
            name: fields(name, PAPER_K, d_in=preset.d_in, d_sae=preset.d_sae)
            for name in ("none", "l2")
        }
        return paper_sweep(preset, groups)
    groups = small_groups()
    return small_sweep(
        {name: groups[name] for name in ("none", "l2")},
        hook_name="blocks.4.hook_resid_post",
        # the paper calls a latent dead after a fifth of its tokens
        dead_feature_window=60,
    )


def subjects_of_groups(name: str, study: SteeringStudy) -> list[Subject]:
    """
    Return the SAEs of the study's two groups in a release, their files checked.

    Raises:
        InputError: if the release lacks one of them, or a file is missing or damaged.
    """
    subjects = subjects_of(
        name, group_by=study.group_by, allow_pickle=study.allow_pickle
    )
    groups = {subject.group for subject in subjects}
    for wanted in (study.group, study.baseline):
        if wanted not in groups:
            raise InputError(
                f"Release {subjects[0].release!r} has no group {wanted!r}; it has "
                f"{', '.join(map(repr, sorted(groups)))}. Name the groups to compare."
            )
    return [
        subject
        for subject in subjects
        if subject.group in (study.group, study.baseline)
    ]


def lost_groups(study: SteeringStudy, release: Release) -> list[str]:
    """Return the groups of which training left no SAE."""
    left = {entry.group for entry in release.entries}
    return [group for group in (study.group, study.baseline) if group not in left]


def model_of(subject: Subject) -> str:
    """Return the name of the language model that an SAE was trained on."""
    cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
    return str((cfg.get("metadata") or cfg).get("model_name"))


def grid_seed(study: SteeringStudy, subjects: Sequence[Subject]) -> int | None:
    """Return the lowest seed that both groups have; None if there is none."""
    seeds = [
        {s.seed for s in subjects if s.group == group and s.seed is not None}
        for group in (study.group, study.baseline)
    ]
    return min(seeds[0] & seeds[1], default=None)
