"""One evaluation by its name, used as a run uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval_recipes.registry import load_evaluation
from eval_recipes.results.subject import Failure
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Named:
    name: str

    def new(self) -> Evaluation[Any]:
        return load_evaluation(self.name)

    def options(self, context: RunContext) -> Any:
        return self.new().options(context)

    def check(self, context: RunContext) -> None:
        evaluation = self.new()
        evaluation.check(context, evaluation.options(context))

    def key(self, context: RunContext) -> dict[str, Any]:
        evaluation = self.new()
        return evaluation.key(context, evaluation.options(context))

    def run(
        self, context: RunContext, evaluation: Evaluation[Any] | None = None
    ) -> list[Failure]:
        """Check and evaluate; what stops the evaluation fails every SAE, as in a run."""
        evaluation = evaluation or self.new()
        options = evaluation.options(context)
        evaluation.check(context, options)
        try:
            return evaluation.evaluate_all(context, options)
        except InputError as error:
            return [evaluation.failure(one, error) for one in context.subjects]
