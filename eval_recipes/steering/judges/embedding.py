"""A judge without any server: how near a text's sentence embedding is to the concept's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from eval_recipes.steering.judges.offline import ThresholdJudge
from eval_recipes.steering.judges.protocol import Pair
from eval_recipes.steering.judges.sentences import EMBEDDED_SENTENCES, SentenceModel
from eval_recipes.steering.judges.threshold import Threshold
from saereg_plugin.errors import InputError, suggest

Measure = Literal["similarity", "gain"]

PUBLISHED_THRESHOLD = Threshold(0.45)
"""Of arXiv 2603.04198's offline judge, on ``similarity``."""


class EmbeddingJudge(ThresholdJudge):
    """
    Scores a pair by cosines of sentence embeddings; continuations only, without the prompt.

    Args:
        model: the sentence model.
        measure: ``similarity``: cos(steered text, concept), as published. ``gain``: that less
            cos(original text, concept), so that a text which was near the concept before any
            steering gains nothing.
        threshold: which score is a success; None until ``calibrate`` found one.
    """

    name = "embedding"

    def __init__(
        self,
        model: SentenceModel,
        *,
        measure: Measure = "gain",
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(threshold)
        if measure not in get_args(Measure):
            raise InputError(
                f"Unknown measure {measure!r}. {suggest(measure, get_args(Measure))}"
            )
        self.model = model
        self.measure = measure

    @classmethod
    def published(cls, model: SentenceModel) -> EmbeddingJudge:
        """Return the judge with the published measure and threshold."""
        return cls(model, measure="similarity", threshold=PUBLISHED_THRESHOLD)

    def settings(self) -> dict[str, Any]:
        """Return what decides the scores."""
        return {
            "model": EMBEDDED_SENTENCES.archive,
            "sha256": EMBEDDED_SENTENCES.sha256,
            "measure": self.measure,
        }

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Return each pair's score; None if concept or steered text is empty."""
        texts = dict.fromkeys(
            text.strip()
            for pair in pairs
            for text in (pair.concept, pair.original.text, pair.steered.text)
        )
        places = {text: place for place, text in enumerate(texts)}
        vectors = self.model.embed(list(texts))

        def cosine(text: str, concept: str) -> float:
            left, right = places[text.strip()], places[concept.strip()]
            return float(vectors[left] @ vectors[right])

        scores: list[float | None] = []
        for pair in pairs:
            if self.why_not(pair):
                scores.append(None)
                continue
            score = cosine(pair.steered.text, pair.concept)
            if self.measure == "gain":
                score -= cosine(pair.original.text, pair.concept)
            scores.append(score)
        return scores

    def why_not(self, pair: Pair) -> str:
        """Return why a pair has no score; empty if it has one."""
        needed = {"concept": pair.concept, "steered text": pair.steered.text}
        if self.measure == "gain":
            needed["original text"] = pair.original.text
        empty = [name for name, text in needed.items() if not text.strip()]
        return f"the {empty[0]} is empty" if empty else ""
