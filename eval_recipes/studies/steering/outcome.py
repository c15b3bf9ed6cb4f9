"""What the steering study gave, before it is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from eval_recipes.results.subject import Failure
from eval_recipes.steering.stats.read_results import SaeKey
from eval_recipes.studies.steering.runs import SteeringRun, SteeringStudy


@dataclass
class SteeringOutcome:
    """What the study gave; ``finished`` is False if training was interrupted."""

    study: SteeringStudy
    runs: list[SteeringRun] = field(default_factory=list[SteeringRun])
    finished: bool = False
    failures: list[Failure] = field(default_factory=list[Failure])
    by_run: dict[str, list[Failure]] = field(default_factory=dict[str, list[Failure]])
    """Failures of steering by the name of the run."""
    saes: dict[str, frozenset[SaeKey]] = field(
        default_factory=dict[str, frozenset[SaeKey]]
    )
    """Release and id of the SAEs by the name of the run; the folder may hold others."""
    stopped: list[str] = field(default_factory=list[str])
    """SAEs taken out of training, one line each, and groups of which none is left."""
    table: Path | None = None
    """The written page; None if training was interrupted."""

    @property
    def troubled(self) -> bool:
        """Whether an SAE or an evaluation failed."""
        return bool(self.failures or self.stopped)
