"""
Evaluates trained sparse autoencoders and reports in SAEBench's format.

The names below are imported when they are used: ``import eval_recipes`` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval_recipes.report.page import write_report as write_report
    from eval_recipes.results.files import load_results as load_results
    from eval_recipes.running.context import ModelCache as ModelCache
    from eval_recipes.running.context import RunContext as RunContext
    from eval_recipes.running.evaluate import evaluate as evaluate
    from eval_recipes.running.run import Outcome as Outcome
    from eval_recipes.running.run import run_evals as run_evals
    from eval_recipes.select.inputs import select_latents as select_latents
    from eval_recipes.steering.plots import plot_steering as plot_steering
    from eval_recipes.tables.plots import plot_pareto as plot_pareto
    from eval_recipes.tables.table import results_table as results_table
    from eval_recipes.width_control.plots import (
        plot_encoder_decoder_cosine as plot_encoder_decoder_cosine,
    )
    from eval_recipes.width_control.plots import (
        plot_matched_similarity as plot_matched_similarity,
    )
    from eval_recipes.width_control.plots import (
        plot_shared_fraction as plot_shared_fraction,
    )
    from eval_recipes.width_control.plots import (
        plot_unstable_overlap as plot_unstable_overlap,
    )

_PLACES = {
    "ModelCache": "running.context",
    "Outcome": "running.run",
    "RunContext": "running.context",
    "evaluate": "running.evaluate",
    "load_results": "results.files",
    "plot_encoder_decoder_cosine": "width_control.plots",
    "plot_matched_similarity": "width_control.plots",
    "plot_pareto": "tables.plots",
    "plot_shared_fraction": "width_control.plots",
    "plot_steering": "steering.plots",
    "plot_unstable_overlap": "width_control.plots",
    "results_table": "tables.table",
    "run_evals": "running.run",
    "select_latents": "select.inputs",
    "write_report": "report.page",
}
"""Module of each public name."""

__all__ = list(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from saereg_plugin.machine import require_extra

    require_extra("bench", f"{__name__}.{name}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, also those that were not imported yet."""
    return sorted({*globals(), *_PLACES})
