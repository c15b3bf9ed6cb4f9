"""Settings that the studies' scales share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from eval_recipes.studies.framework.definition import Column
from saereg_plugin.presets import Preset
from saereg_plugin.sweeps import SweepConfig

D_IN = 576
"""Width of the embedded model's residual stream."""

SHARED = Column("cross_seed", "shared/shared", "shared")
SHARED_ALIVE = Column("cross_seed", "shared/shared_alive", "shared of alive")
MEAN_MAX_COS = Column("cross_seed", "similarity/mean_max_cos", "mean max cos")

ABSORPTION = Column("absorption", "mean/mean_absorption_fraction_score", "absorption")
PROBING = Column(
    "sparse_probing", "sae/sae_top_1_test_accuracy", "sparse probing, top 1"
)

Groups = Mapping[str, Mapping[str, Any]]


def small_sweep(groups: Groups, **changes: Any) -> SweepConfig:
    """
    Return a sweep on the embedded model and text: few tokens, a learning rate to match.

    ``changes`` are fields of SweepConfig.
    """
    fields: dict[str, Any] = {
        "hook_name": "blocks.2.hook_resid_post",
        "sae": {},
        "groups": groups,
        "seeds": (0, 1, 2),
        "tokens": 307_200,
        "batch_size": 1024,
        "autocast": True,
        "lr": 1e-3,
        "lr_warm_up_steps": 20,
        **changes,
    }
    return SweepConfig(**fields)


def paper_sweep(preset: Preset, groups: Groups, **changes: Any) -> SweepConfig:
    """Return the sweep of a preset's run with these groups; ``changes`` replace its fields."""
    fields: dict[str, Any] = {
        **preset.sweep_fields(),
        "sae": {},
        "groups": groups,
        "device": device(),
        "autocast": device() != "cpu",
        **changes,
    }
    return SweepConfig(**fields)


def device() -> str:
    """Where the paper's scale runs: an accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
