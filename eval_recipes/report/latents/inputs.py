"""Everything that the results say about the single latents of an SAE."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any

import pandas as pd

from eval_recipes.examples.reader import SAEExamples
from eval_recipes.report.source import PageSAE

Column = list[float | None]

DIGITS = 3
"""Significant digits of numbers about latents."""


@dataclass(frozen=True)
class OtherSeed:
    """Another seed of an SAE's group; ``label`` is None where the page does not have it."""

    seed: int
    sae_id: str
    label: str | None


@dataclass(frozen=True)
class Explained:
    """
    What a latent is said to fire on.

    ``checked`` is the score with checked negatives; ``n2g`` has precision and recall where N2G
    explained.
    """

    text: str | None
    score: float | None
    checked: float | None
    n2g: tuple[float | None, float | None] | None = None

    @property
    def shown_score(self) -> float | None:
        """The judge's score, or the checked one where no language model judged."""
        return self.checked if self.score is None else self.score


@dataclass(frozen=True)
class Stability:
    """Stability table of one SAE, a row per latent, and the other seeds in its order."""

    table: pd.DataFrame
    others: list[OtherSeed]


@dataclass(frozen=True)
class LatentInputs:
    """
    What is known of one SAE's latents; None and empty where an evaluation has no result.

    Attributes:
        size: number of latents.
        core: SAEBench's figures of each latent.
        judge: chat model that scored explanations; None for the token explainer and N2G.
        texts: results of steering, a row per pair of texts.
        steering: the settings of ``texts``.
        cosines: of encoder and decoder vector.
        balance: cost and worth of each latent's code, a row per latent.
        deaths: table of the evaluation death, a row per latent.
        attribution: table of the evaluation attribution, a row per latent.
        missing: why a part is not there, by evaluation.
    """

    sae: PageSAE
    size: int
    stability: Stability | None = None
    examples: SAEExamples | None = None
    core: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    explanations: Mapping[int, Explained] = field(default_factory=dict[int, Explained])
    judge: str | None = None
    texts: pd.DataFrame | None = None
    steering: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cosines: Column | None = None
    balance: pd.DataFrame | None = None
    deaths: pd.DataFrame | None = None
    attribution: pd.DataFrame | None = None
    missing: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> str:
        """Name of the SAE on the page."""
        return self.sae.label

    @property
    def others(self) -> list[OtherSeed]:
        """The other seeds."""
        return [] if self.stability is None else self.stability.others

    @cached_property
    def steered(self) -> dict[int, list[dict[str, Any]]]:
        """Pairs of texts at the first amount, by latent."""
        found: dict[int, list[dict[str, Any]]] = {}
        amounts = self.steering.get("amounts")
        rows: Any = [] if self.texts is None else self.texts.to_dict("records")
        for row in rows:
            if not amounts or pd.isna(row["amount"]) or row["amount"] == amounts[0]:
                found.setdefault(row["latent"], []).append(row)
        return found

    @cached_property
    def described(self) -> list[int]:
        """Latents with a score or a steered text; those with both first."""
        scored = {k for k, e in self.explanations.items() if e.shown_score is not None}
        both = scored & set(self.steered)
        found = [*sorted(both), *sorted(set(self.steered) - both), *sorted(scored)]
        return [latent for latent in dict.fromkeys(found) if latent < self.size]

    @cached_property
    def levels(self) -> list[int]:
        """Number of other seeds that share each latent; 0 without cross_seed."""
        if self.stability is None:
            return [0] * self.size
        shares = self.stability.table["stability"] * len(self.others)
        return [round(share) for share in shares.tolist()]

    @cached_property
    def density(self) -> Column:
        """Share of tokens on which each latent fires."""
        return self._of_examples("density") or self._of_core("feature_density")

    def columns(self) -> dict[str, list[Any]]:
        """Return the scalars of all latents, a list each; None where there is no value."""
        levels = None if self.stability is None else list(self.levels)
        return {
            "density": self.density,
            "firing": self._of_stability("firing_rate"),
            "form": self._of_stability("surface_form"),
            "tenth": self._of_stability("stability_tenth"),
            "mean": self._of_examples("mean_activation") or self._empty,
            "stability": levels or self._empty,
            "score": self._spread(
                {k: e.shown_score for k, e in self.explanations.items()}
            ),
            "steering": self._spread(
                {k: self._success_rate(rows) for k, rows in self.steered.items()}
            ),
            "cosine": self.cosines or self._of_core("encoder_decoder_cosine_sim"),
            "bits": self._of_balance("cost"),
            "net": self._of_balance("net"),
            "attribution": self._of_attribution("score"),
            "effect": self._of_attribution("effect"),
            "encoder": self._encoder(),
            "alive": self._alive(),
            "death": self._deaths(),
        }

    def about(self) -> dict[str, Any]:
        """Return what the numbers are of: text, judge, settings of steering."""
        keys = ("kind", "corpus", "tokens", "context_size", "grid", "model")
        settings = {} if self.examples is None else self.examples.settings
        return {
            "examples": {key: settings[key] for key in keys if key in settings},
            "judge": self.judge,
            "steering": dict(self.steering),
        }

    @property
    def _empty(self) -> Column:
        return [None] * self.size

    def _spread(self, values: Mapping[int, float | None]) -> Column:
        return [short(values.get(latent)) for latent in range(self.size)]

    def _of_examples(self, name: str) -> Column | None:
        if self.examples is None:
            return None
        found = [short(value) for value in self.examples.scalars()[name].tolist()]
        return (found + self._empty)[: self.size]

    def _of_stability(self, name: str) -> Column:
        """Return a column of the stability table; earlier versions wrote fewer."""
        if self.stability is None or name not in self.stability.table:
            return self._empty
        return [short(value) for value in self.stability.table[name].tolist()]

    def _of_balance(self, name: str) -> Column:
        if self.balance is None:
            return self._empty
        fires, values = self.balance["fires"].tolist(), self.balance[name].tolist()
        # what never fires costs nothing and is worth nothing: that is no balance
        pairs = zip(fires, values, strict=True)
        found = [short(value) if n else None for n, value in pairs]
        return (found + self._empty)[: self.size]

    def _of_attribution(self, name: str) -> Column:
        if self.attribution is None:
            return self._empty
        # what never fires has no effect
        columns = (self.attribution[key].tolist() for key in ("fires", name))
        return [short(value) if n else None for n, value in zip(*columns, strict=True)]

    def _of_core(self, name: str) -> Column:
        return self._spread({one["index"]: one.get(name) for one in self.core})

    def _success_rate(self, rows: Iterable[Mapping[str, Any]]) -> float | None:
        """Return the share of steered texts in which the first judge finds the concept."""
        judge = self.steering["judge"]
        found = [row[f"{judge}_success"] for row in rows if row["arm"] == "steered"]
        known = [float(success) for success in found if not pd.isna(success)]
        return sum(known) / len(known) if known else None

    def _encoder(self) -> Column:
        """Return the norm of each latent's encoder over its norm at the start."""
        if self.deaths is None:
            return self._empty
        return [short(ratio) for ratio in self.deaths["encoder_ratio"].tolist()]

    def _deaths(self) -> list[str | None]:
        """Return cause and pathway of each dead latent; None for others."""
        if self.deaths is None:
            return [None] * self.size
        columns = (self.deaths[name].tolist() for name in ("cause", "pathway"))
        return [
            None if pathway is None else f"{cause}, by {pathway}"
            for cause, pathway in zip(*columns, strict=True)
        ]

    def _alive(self) -> list[bool | None]:
        """Return whether each latent is alive by its weights, or else fires."""
        if self.stability is not None:
            return [bool(alive) for alive in self.stability.table["alive"]]
        return [None if share is None else share > 0 for share in self.density]


def short(value: Any) -> float | None:
    """
    Return a number with three significant digits; None for anything else.

    >>> short(0.123456), short(float("nan")), short(None), short("many")
    (0.123, None, None, None)
    """
    # numpy's numbers are real as well
    if not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
