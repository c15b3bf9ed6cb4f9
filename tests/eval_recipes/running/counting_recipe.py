"""A throwaway evaluation: one number an SAE, and a record of whom it evaluated."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalConfig,
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)

from eval_recipes.results.files import (
    base_fields,
    result_path,
    unstructured,
    write_result,
)
from eval_recipes.results.subject import Failure
from eval_recipes.running.context import RunContext

EVALUATED: list[str] = []
"""SAE ids in the order in which they were evaluated."""

STOP_AFTER: list[int] = []
"""If it holds a number, so many SAEs are evaluated before the process "is killed"."""


class Killed(BaseException):
    """Passes everything that catches errors, as a killed process would."""


@dataclass
class Config(BaseEvalConfig):
    factor: float = 1.0


@dataclass
class Metrics(BaseMetrics):
    norm: float = Field(title="Norm")


@dataclass
class Categories(BaseMetricCategories):
    weights: Metrics = Field(title="Weights")


@dataclass
class Output(BaseEvalOutput[Config, Categories, BaseResultDetail]):
    eval_config: Config
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: Categories
    eval_type_id: str = "counting"


def check(context: RunContext) -> None:
    """Refuse nothing."""


def run(context: RunContext) -> list[Failure]:
    factor = context.options.get("counting", {}).get("factor", 1.0)
    for subject in context.subjects:
        if STOP_AFTER and len(EVALUATED) >= STOP_AFTER[0]:
            raise Killed
        sae = subject.load()
        EVALUATED.append(subject.sae_id)
        output = Output(
            **base_fields(subject, sae),
            eval_config=Config(factor),
            eval_result_metrics=Categories(Metrics(factor * float(sae.W_dec.norm()))),
            eval_result_unstructured=unstructured(subject),
        )
        path = result_path(context.out, "counting", subject.release, subject.sae_id)
        write_result(path, output)
    return []
