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

from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation

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


class CountingEvaluation(Evaluation[Config]):
    name = "counting"
    summary = "a throwaway"
    Options = Config
    Output = Output

    def evaluate_all(self, context: RunContext, options: Config) -> list[Failure]:
        """Handle no error: the first one stops the evaluation."""
        for subject in context.subjects:
            if STOP_AFTER and len(EVALUATED) >= STOP_AFTER[0]:
                raise Killed
            self.write(context, subject, self.evaluate(context, subject, options))
        return []

    def evaluate(
        self,
        context: RunContext,  # noqa: ARG002
        subject: Subject,
        options: Config,
    ) -> Output:
        sae = subject.load()
        EVALUATED.append(subject.sae_id)
        norm = float(sae.W_dec.norm())
        return Output(
            **base_fields(subject, sae),
            eval_config=options,
            eval_result_metrics=Categories(Metrics(options.factor * norm)),
            eval_result_unstructured=unstructured(subject),
        )


class OverGroups(CountingEvaluation):
    over_groups = True
