"""The SAEs of the steering study: how they are trained, and those of a release."""

from __future__ import annotations

from collections.abc import Sequence

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.results.subject import Subject
from eval_recipes.running.run import subjects_of
from eval_recipes.studies.framework.scales import paper_sweep, small_sweep
from eval_recipes.studies.steering.runs import Scale, SteeringStudy
from eval_recipes.studies.weight_regularization import fields, small_groups
from saereg_plugin.errors import InputError
from saereg_plugin.presets import weight_regularized_topk
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import Release
from saereg_plugin.sweeps import SweepConfig

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
    subjects = subjects_of(name, group_by=study.group_by)
    groups = {subject.group for subject in subjects}
    for wanted in (study.group, study.baseline):
        if wanted not in groups:
            raise InputError(
                f"Release {open_release(name).name!r} has no group {wanted!r}; it has "
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
