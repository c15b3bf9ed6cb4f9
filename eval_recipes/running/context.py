"""The SAEs, text and folders of one run of evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eval_recipes.results.subject import Subject
from eval_recipes.running.artifacts import default_artifacts
from eval_recipes.running.model_cache import ModelCache


@dataclass
class RunContext:
    """
    Everything that an evaluation may ask for. Costly parts are computed once, on first use.

    Attributes:
        subjects: the SAEs to evaluate.
        out: folder of the results; an evaluation writes ``out/<eval>/...`` only.
        corpus: name, folder or hub path of the text (``saereg_plugin.sources.corpora``).
        heldout_tokens: tokens of held-out text used for explained variance, L0, alive.
        context_size: tokens in one context; None takes each SAE's own.
        batch_size_prompts: contexts in one pass of the language model.
        dtype: data type of the language model.
        device: torch device.
        seed: seed of every random draw.
        data: where labelled texts come from: "hub" (SAEBench's sets) or "embedded" (sets
            of the same shape from the sae-probes wheel; scores are not comparable).
        artifacts: folder of what is kept between runs (``eval_recipes.running.artifacts``).
        memory_gib: bound on the activations that an evaluation holds in memory.
        options: settings of single evaluations, by name.
        models: the language model in memory, shared by all evaluations.
        judge_budget: an ``eval_recipes.chat.Budget`` that several runs share; None gives each run
            its own, by its options. It decides no result and is in no key.
        whole: the run's context, of which this one has a part of the subjects.
        measured: figures that evaluations share, computed on first use (``heldout_of``).
    """

    subjects: list[Subject]
    out: Path
    corpus: str = "embedded"
    heldout_tokens: int = 65_536
    context_size: int | None = None
    batch_size_prompts: int = 16
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    data: Literal["hub", "embedded"] = "hub"
    artifacts: Path = field(default_factory=default_artifacts)
    memory_gib: float = 4.0
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: ModelCache = field(default_factory=ModelCache)
    judge_budget: Any = None
    whole: RunContext | None = field(default=None, init=False)
    measured: dict[str, Any] = field(default_factory=dict, init=False)

    def part(self, subjects: list[Subject]) -> RunContext:
        """Return a context with these subjects that shares model and held-out figures."""
        if subjects == self.subjects:
            return self
        part = replace(self, subjects=subjects)
        part.whole = self.whole or self
        return part
