"""Architectures, regularisers, evaluations and models, by name."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from eval_recipes.registry import RECIPES, UNAVAILABLE, load_evaluation
from saereg_plugin.machine import missing_modules
from saereg_plugin.registry import ARCHITECTURES, MECHANICS, REGULARIZERS
from saereg_plugin.sources.models import EMBEDDED

Rows = list[tuple[str, ...]]


def sections(*, public_releases: bool = False) -> dict[str, Rows]:
    """Return what can be trained and evaluated, by heading."""
    directory = get_pretrained_saes_directory()
    found: dict[str, Rows] = {
        "Architectures": [
            (name, f"saved as SAELens' {_saved_as(cfg)}")
            for name, (_, cfg) in ARCHITECTURES.items()
        ],
        "Regularisers": [(name, _fields(cfg)) for name, cfg in REGULARIZERS.items()],
        "Training mechanics": [(name, _fields(cfg)) for name, cfg in MECHANICS.items()],
        "Evaluations": [(name, _summary(name)) for name in RECIPES],
        "Unavailable evaluations": list(UNAVAILABLE.items()),
        "Embedded models": [
            (name, asset.requirement) for name, asset in EMBEDDED.items()
        ],
        "Releases": [
            (f"{len(directory)} public releases of SAELens; --releases lists them",)
        ],
    }
    if public_releases:
        found["Releases"] = [(name, entry.model) for name, entry in directory.items()]
    return found


def _summary(name: str) -> str:
    """Return an evaluation's summary, or that the packages for it are not installed."""
    if missing_modules("bench"):
        return "needs the extra 'bench': saereg-bench doctor says more"
    return load_evaluation(name).summary


def _fields(cfg: type[Any]) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cfg))


def _saved_as(cfg: type[Any]) -> str:
    inference: Any = inspect.getattr_static(cfg, "inference_config")
    return inference.architecture()
