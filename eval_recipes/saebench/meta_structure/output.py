"""SAEBench's meta-structure output with one more category: what its one number rests on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import DEFAULT_DISPLAY, BaseMetrics
from sae_bench.evals.meta_structure.eval_output import (
    MetaStructureEvalOutput,
    MetaStructureMetricCategories,
)

from eval_recipes.results.schemas import schema_text

_VARIANCE = "Fraction of Variance Explained"
_ALIVE = "Fraction of Variance Explained, Alive Latents"


def _bound(side: str, title: str) -> Any:
    return Field(
        title=f"{title} ({side})",
        description=f"{side.capitalize()} end of the 95 % interval, bootstrapped over latents",
    )


@dataclass(kw_only=True)
class CorrectedMetaStructureMetrics(BaseMetrics):
    """Figures of the same meta-SAE, and of one trained on a random decoder."""

    fraction_variance_explained: float = Field(
        title=_VARIANCE,
        description="1 - squared error / squared distance from the mean row; the k n largest activations over all n rows are kept, whatever the batch size",
        json_schema_extra=DEFAULT_DISPLAY,
    )
    fraction_variance_explained_ci_low: Annotated[float, _bound("low", _VARIANCE)]
    fraction_variance_explained_ci_high: Annotated[float, _bound("high", _VARIANCE)]
    fraction_variance_explained_n: int = Field(
        title=f"{_VARIANCE} (n)", description="Latents (decoder rows)"
    )
    fraction_variance_explained_alive: float | None = Field(
        title=_ALIVE,
        description="The same error over the rows of latents with cos(enc_j, dec_j) > .1, against their own mean; null with fewer than two",
    )
    fraction_variance_explained_alive_ci_low: Annotated[
        float | None, _bound("low", _ALIVE)
    ]
    fraction_variance_explained_alive_ci_high: Annotated[
        float | None, _bound("high", _ALIVE)
    ]
    fraction_variance_explained_alive_n: int = Field(
        title=f"{_ALIVE} (n)", description="Alive latents"
    )
    random_fraction_variance_explained: float = Field(
        title="Fraction of Variance Explained, Random Decoder",
        description="What a meta-SAE of the same shape and training reaches on rows drawn uniformly from the sphere",
    )
    above_random: float = Field(
        title="Above Random",
        description="Fraction of variance explained minus that of the random decoder",
        json_schema_extra=DEFAULT_DISPLAY,
    )
    meta_width: int = Field(
        title="Meta-SAE Width", description="Latents of the meta-SAE"
    )


@dataclass
class CorrectedMetaStructureMetricCategories(MetaStructureMetricCategories):
    """Upstream's category, untouched, and the corrected figures beside it."""

    corrected: CorrectedMetaStructureMetrics = Field(
        title="Corrected",
        description="Independent of the batch size, with intervals and the baseline of a random decoder",
    )


@dataclass(config=ConfigDict(title="Meta-Structure Decoder Variance"))
class CorrectedMetaStructureOutput(MetaStructureEvalOutput):
    """Meta-structure evaluation in upstream's format with corrected figures beside its own."""

    eval_result_metrics: CorrectedMetaStructureMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


def json_schema() -> str:
    """Return the text of the JSON schema that ships beside this file."""
    return schema_text(CorrectedMetaStructureOutput)
