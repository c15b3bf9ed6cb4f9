"""Studies by name; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval_recipes.studies.framework.definition import Study


@dataclass(frozen=True)
class Entry:
    """
    A study that trains a grid of SAEs.

    Attributes:
        module: of this package, with ``STUDY``; imported when used, since torch takes seconds.
        summary: one line for the command line.
    """

    module: str
    summary: str


GRID_STUDIES = MappingProxyType(
    {
        "weight-regularization": Entry(
            "weight_regularization",
            "Weight penalties on TopK (arXiv 2603.04198): are latents the same in every seed?",
        ),
        "annealing": Entry(
            "annealing",
            "Schedules of the L2 penalty on TopK (arXiv 2603.04198): constant, warm-up, to 0, cosine.",
        ),
        "topk-regularizers": Entry(
            "topk_regularizers",
            "Off-support L1 and L1/L2 ratio (arXiv 2606.27321) on TopK, k 32, 64, 128.",
        ),
        "vision": Entry(
            "vision.study",
            "Off-support L1, L1/L2 ratio, MonoLoss (arXiv 2606.27321, 2602.12403) on images.",
        ),
        "finetune": Entry(
            "finetune.study",
            "KL + MSE fine-tuning (arXiv 2503.17272) against MSE alone, with and without L2.",
        ),
        "distill": Entry(
            "distill",
            "Cyclic distillation of a core (DMSAE, arXiv 2512.24975) against three controls.",
        ),
        "frequency-weighted": Entry(
            "frequency_weighted",
            "FreqSAE: a plain L1 against one that grows with how often a latent fires.",
        ),
        "temporal": Entry(
            "temporal",
            "TemporalSAE: three baselines against the paper's four runs, tokens in order.",
        ),
        "death": Entry(
            "death",
            "Deaths of latents (arXiv 2603.04198, 2605.31518): by cause, and which are pathological.",
        ),
        "vocabulary": Entry(
            "vocabulary",
            "VASAE (arXiv 2606.27941): decoder rows with and without a pull to token embeddings.",
        ),
    }
)
"""Studies that the framework runs; ``mnist`` has its own loop and command."""


def study_named(name: str) -> Study:
    """
    Return a study.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    from saereg_plugin.errors import InputError, suggest

    if name not in GRID_STUDIES:
        raise InputError(f"Unknown study {name!r}. {suggest(name, GRID_STUDIES)}")
    return import_module(f"eval_recipes.studies.{GRID_STUDIES[name].module}").STUDY
