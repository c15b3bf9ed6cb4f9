"""The category of masked metrics that SCR's and TPP's outputs have beside upstream's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import DEFAULT_DISPLAY, BaseMetrics

PUBLISHED_N = (2, 5, 10, 20, 50, 100, 500)
"""Numbers of ablated latents for which upstream's output has fields."""

HEADLINE_N = 10
"""The one that the SAEBench paper plots (arXiv 2503.09532)."""


def metrics_class(
    name: str, doc: str, metrics: Mapping[str, tuple[str, str]], *, headline: str
) -> type[BaseMetrics]:
    """
    Return a class with four fields a metric and number of latents; None where not run.

    Args:
        name: of the class.
        doc: its docstring.
        metrics: title and description by field name; ``{n}`` stands for the number.
        headline: the metric, as named in ``metrics``, to show first.
    """
    annotations: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for n in PUBLISHED_N:
        for template, (title, description) in metrics.items():
            field, title = template.format(n=n), title.format(n=n)
            shown = template == headline and n == HEADLINE_N
            for suffix, kind, ending, text in (
                ("", float, "", description.format(n=n)),
                ("_ci_low", float, " (low)", "Low end of the 95 % interval"),
                ("_ci_high", float, " (high)", "High end of the 95 % interval"),
                ("_n", int, " (n)", "Test texts behind the figure"),
            ):
                annotations[field + suffix] = kind | None
                fields[field + suffix] = Field(
                    default=None,
                    title=title + ending,
                    description=text,
                    json_schema_extra=DEFAULT_DISPLAY if shown and not suffix else None,
                )
    namespace = {
        "__annotations__": annotations,
        "__doc__": doc,
        "__module__": __name__,
        **fields,
    }
    made: type[BaseMetrics] = type(name, (BaseMetrics,), namespace)
    return cast("type[BaseMetrics]", dataclass(made))
