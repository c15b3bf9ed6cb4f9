"""Everything that the results say about the single latents of an SAE."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from safetensors import SafetensorError
from safetensors.torch import load_file

from eval_recipes.cross_seed.output import STABILITY
from eval_recipes.examples.reader import SAEExamples, read_examples
from eval_recipes.report.source import PageSAE, Record, Source
from eval_recipes.steering.texts import judges_of, read_texts, results_of
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import encoder_decoder_cosines

T = TypeVar("T")
Column = list[float | None]

DIGITS = 3
"""Significant digits of numbers about latents."""

_ABSENT = {
    "examples": "No activating examples: the evaluation 'examples' has no result of this SAE.",
    "cross_seed": "No match in other seeds: 'cross_seed' has no result of this SAE.",
    "autointerp": "No explanations: 'autointerp' has no result of this SAE.",
    "steering": "No steered texts: 'steering' has no result of this SAE.",
}
"""Said on the page where an evaluation has no result."""


@dataclass(frozen=True)
class OtherSeed:
    """Another seed of an SAE's group; ``label`` is None where the page does not have it."""

    seed: int
    sae_id: str
    label: str | None


@dataclass(frozen=True)
class Explained:
    """What a latent is said to fire on; ``checked`` is the score with checked negatives."""

    text: str | None
    score: float | None
    checked: float | None

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
        judge: chat model that scored explanations; None for the token explainer.
        texts: results of steering, a row per pair of texts.
        steering: the settings of ``texts``.
        cosines: of encoder and decoder vector.
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
    def steered(self) -> dict[int, pd.DataFrame]:
        """Texts at the first amount, by latent."""
        if self.texts is None:
            return {}
        rows = self.texts
        amounts = self.steering["amounts"]
        if amounts:
            rows = rows.loc[rows["amount"].isna() | (rows["amount"] == amounts[0])]
        return {int(latent): part for latent, part in rows.groupby("latent")}  # pyright: ignore[reportArgumentType]

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
            "mean": self._of_examples("mean_activation") or self._empty,
            "stability": levels or self._empty,
            "score": self._spread(
                {k: e.shown_score for k, e in self.explanations.items()}
            ),
            "steering": self._spread(
                {k: success_rate(rows) for k, rows in self.steered.items()}
            ),
            "cosine": self.cosines or self._of_core("encoder_decoder_cosine_sim"),
            "alive": self._alive(),
        }

    def about(self) -> dict[str, Any]:
        """Return what the numbers are of: text, judge, settings of steering."""
        keys = ("kind", "corpus", "tokens", "context_size")
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

    def _of_core(self, name: str) -> Column:
        return self._spread({one["index"]: one.get(name) for one in self.core})

    def _alive(self) -> list[bool | None]:
        """Return whether each latent is alive by its weights, or else fires."""
        if self.stability is not None:
            return [bool(alive) for alive in self.stability.table["alive"]]
        return [None if share is None else share > 0 for share in self.density]


def short(value: float | None) -> float | None:
    """
    Return a number with three significant digits; what is no number is None.

    >>> short(0.123456), short(float("nan")), short(None)
    (0.123, None, None)
    """
    if value is None or pd.isna(value) or abs(value) == float("inf"):
        return None
    return float(f"{value:.{DIGITS}g}")


def success_rate(rows: pd.DataFrame) -> float | None:
    """Return the share of steered texts in which the first judge finds the explanation."""
    judges = judges_of(rows)
    if not judges:
        return None
    found = rows.loc[rows["arm"] == "steered", f"{judges[0]}_success"].dropna()
    return float(found.astype(float).mean()) if len(found) else None


def read_inputs(source: Source) -> list[LatentInputs]:
    """
    Return what is known of the latents of every SAE, in the order of the page.

    SAEs are left out of which no evaluation has a result about latents, other than figures of
    ``core``. A table that is missing or damaged is named in ``missing``.
    """
    reader = _Reader(source)
    found = [reader.read(sae) for sae in source.saes]
    return [
        one for one in found if one.size and any(e not in one.missing for e in _ABSENT)
    ]


class _Reader:
    """The results of one page, by evaluation and SAE."""

    def __init__(self, source: Source) -> None:
        self._release = source.release
        self._told = source.told
        self._labels = {sae.key: sae.label for sae in source.saes}
        self._results = {
            evaluation: {
                sae.label: (path, record)
                for sae, path, record in source.results(evaluation)
            }
            for evaluation in (*_ABSENT, "core")
        }

    def read(self, sae: PageSAE) -> LatentInputs:
        missing = dict(_ABSENT)

        def known(eval: str, read: Callable[[PageSAE, Path, Record], T]) -> T | None:
            result = self._results[eval].get(sae.label)
            if result is None:
                return None
            try:
                value = read(sae, *result)
            except InputError as error:
                missing[eval] = self._told(error)
                return None
            missing.pop(eval, None)
            return value

        stability = known("cross_seed", self._stability)
        examples = known("examples", lambda _, path, __: read_examples(path))
        core = known("core", lambda _, __, record: _details(record, "index"))
        scored = known("autointerp", lambda _, __, record: _explained(record))
        steered = known("steering", lambda _, path, record: _steered(path, record))
        texts, steering = steered or (None, {})
        explanations, judge = scored or ({}, None)
        return LatentInputs(
            sae=sae,
            size=_size(sae, stability, examples, core),
            stability=stability,
            examples=examples,
            core=core or [],
            explanations={**_from_texts(texts), **explanations},
            judge=judge,
            texts=texts,
            steering=steering,
            cosines=self._cosines(sae),
            missing=missing,
        )

    def _stability(self, sae: PageSAE, path: Path, _: Record) -> Stability:
        table = STABILITY.read_table(path)
        about = json.loads((table.schema.metadata or {}).get(b"saereg", b"{}"))
        pairs = zip(about.get("other_seeds", ()), about.get("other_sae_ids", ()))
        others = [
            OtherSeed(seed, sae_id, self._labels.get((sae.release, sae_id)))
            for seed, sae_id in pairs
        ]
        return Stability(table.to_pandas(), others)

    def _cosines(self, sae: PageSAE) -> Column | None:
        """Return the cosines by the weights of the release, if it was named and has both."""
        release = self._release
        if release is None or release.folder is None or release.name != sae.release:
            return None
        paths = [one.path for one in release.entries if one.sae_id == sae.sae_id]
        if not paths:
            return None
        try:
            weights = load_file(release.folder / paths[0] / SAE_WEIGHTS_FILENAME)
        except (OSError, SafetensorError):
            # the page names files of a release that are missing
            return None
        encoder, decoder = weights.get("W_enc"), weights.get("W_dec")
        if encoder is None or decoder is None or encoder.T.shape != decoder.shape:
            return None
        found = encoder_decoder_cosines(encoder.T.float(), decoder.float())
        return [short(value) for value in found.tolist()]


def _details(record: Record, key: str) -> list[dict[str, Any]]:
    """Return the details of single latents: those with a whole number under ``key``."""
    return [
        detail
        for detail in record.get("eval_result_details") or ()
        if isinstance(detail, dict) and isinstance(detail.get(key), int)
    ]


def _explained(record: Record) -> tuple[dict[int, Explained], str | None]:
    """Return explanations by latent, and the chat model; also of SAEBench's own results."""
    own = [d for d in _details(record, "latent") if "explanation" in d]
    extra = record.get("eval_result_unstructured")
    entries: Iterable[Any] = own or (extra.values() if isinstance(extra, dict) else ())
    found = {
        entry["latent"]: Explained(
            entry.get("explanation"),
            short(entry.get("score")),
            short(entry.get("checked_score")),
        )
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("latent"), int)
    }
    config = record.get("eval_config") or {}
    judged = any(one.score is not None for one in found.values())
    return found, config.get("judge_model") or ("a chat model" if judged else None)


def _from_texts(texts: pd.DataFrame | None) -> dict[int, Explained]:
    """Return the explanations that steering went by."""
    if texts is None:
        return {}
    rows = texts.dropna(subset=["explanation"]).drop_duplicates("latent")
    columns = (
        rows[name].tolist() for name in ("latent", "explanation", "interp_score")
    )
    return {
        int(latent): Explained(text, short(score), None)
        for latent, text, score in zip(*columns, strict=True)
    }


def _steered(path: Path, record: Record) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the texts of one SAE, and the settings that a reader needs."""
    texts = results_of(read_texts(path))
    config, judges = record.get("eval_config") or {}, judges_of(texts)
    settings = {
        "amounts": config.get("amounts") or [],
        "mode": config.get("strength_mode"),
        "judge": judges[0] if judges else None,
    }
    return texts, settings


def _size(
    sae: PageSAE,
    stability: Stability | None,
    examples: SAEExamples | None,
    core: list[dict[str, Any]] | None,
) -> int:
    """Return the number of latents, by the first source that has it; 0 if none does."""
    if stability is not None:
        return len(stability.table)
    if examples is not None:
        return len(examples)
    width = sae.cfg.get("d_sae")
    return width if isinstance(width, int) else len(core or ())
