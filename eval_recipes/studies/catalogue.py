"""Every study on a language model by name: the one table that command line and tests read."""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType

from eval_recipes.studies.model import Study
from saereg_plugin.errors import InputError, suggest

GRID_STUDIES = MappingProxyType(
    {
        "frequency-weighted": "frequency_weighted",
        "temporal": "temporal",
        "topk-regularizers": "topk_regularizers",
        "weight-regularization": "weight_regularization",
        "vocabulary": "vocabulary",
    }
)
"""Name -> module of this package with ``STUDY``; imported when used, since torch takes seconds."""


def study_named(name: str) -> Study:
    """
    Return a study.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    if name not in GRID_STUDIES:
        raise InputError(f"Unknown study {name!r}. {suggest(name, GRID_STUDIES)}")
    return import_module(f"eval_recipes.studies.{GRID_STUDIES[name]}").STUDY
