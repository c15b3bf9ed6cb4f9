"""Transcripts of edited clips, condition by condition, and the choice of strengths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration

from eval_recipes.studies.framework.study_folder import read_figures, write_figures
from eval_recipes.studies.whisper.conditions import (
    Condition,
    Edits,
    Tuned,
    best_setting,
    families,
)
from eval_recipes.studies.whisper.settings import GROUPS, WhisperStudy
from eval_recipes.studies.whisper.states import States, finish_encoder
from eval_recipes.studies.whisper.transcripts import (
    Decoding,
    Transcript,
    Words,
    transcribe,
)
from saereg_plugin.activations.edits.changes import Edit
from saereg_plugin.activations.edits.context import edited
from saereg_plugin.owned_folder import OwnedFolder

THRESHOLD_SILENCE = 0.6
THRESHOLD_SCORE = -1.0
"""Whisper's usual thresholds: silence is more probable and the mean log-probability lower."""


@dataclass(frozen=True)
class Measurement:
    """
    Transcribes edited clips.

    Attributes:
        study: settings.
        model: the model.
        decoding: its rules.
        words: its tokenizer's texts.
        edits: what conditions add.
    """

    study: WhisperStudy
    model: WhisperForConditionalGeneration
    decoding: Decoding
    words: Words
    edits: Edits

    def transcripts(
        self, condition: Condition, states: States, n: int, most_tokens: int
    ) -> list[Transcript]:
        """Return the transcripts of the first ``n`` clips under a condition."""
        change = self.edits.of(condition)
        point = condition.point or self.study.last
        found: list[Transcript] = []
        for start in range(0, n, self.study.batch_clips):
            places = slice(start, min(start + self.study.batch_clips, n))
            found += self._batch(change, point, states, places, most_tokens)
        return found

    @torch.no_grad()
    def _batch(
        self,
        change: Edit | None,
        point: str,
        states: States,
        places: slice,
        most_tokens: int,
    ) -> list[Transcript]:
        x = states.at(point, places).to(self.model.device)
        x = x if change is None else edited(x, change)
        encoded = finish_encoder(self.model, x, point)
        return transcribe(self.model, encoded, self.decoding, most_tokens=most_tokens)

    def figures(
        self, condition: Condition, noise: States, speech: States
    ) -> dict[str, Any]:
        """Return what became of every held-out clip under a condition, as plain JSON."""
        of_noise = self.transcripts(
            condition, noise, len(noise.clips), self.study.noise_tokens
        )
        of_speech = self.transcripts(
            condition, speech, len(speech.clips), self.study.speech_tokens
        )
        return {
            "condition": condition.to_json(),
            "norm": self.edits.norm(condition),
            "noise": _grouped([self._noise_row(one) for one in of_noise], noise),
            "speech": _grouped(self._speech_rows(of_speech, speech), speech),
        }

    def _noise_row(self, one: Transcript) -> dict[str, Any]:
        text = self.words.text(one.tokens)
        return {
            "text": text,
            "words": len(self.words.words(text)),
            "tokens": len(one.tokens),
            "ends_first": one.ends_first,
            "silence": one.silence,
            "log_probability": one.log_probability,
        }

    def _speech_rows(
        self, found: Sequence[Transcript], speech: States
    ) -> list[dict[str, Any]]:
        return [self._speech_row(one, speech, n) for n, one in enumerate(found)]

    def _speech_row(
        self, one: Transcript, speech: States, place: int
    ) -> dict[str, Any]:
        text = self.words.text(one.tokens)
        reference = speech.clips.read([place])[0].text or ""
        errors, words = self.words.errors(reference, text)
        return {
            "text": text,
            "errors": errors,
            "words": words,
            "ends_first": one.ends_first,
            "silence": one.silence,
            "log_probability": one.log_probability,
        }

    @torch.no_grad()
    def sae_figures(
        self, point: str, group: str, seed: int, speech: States
    ) -> dict[str, Any]:
        """Return an SAE's latents, and its FVU and L0 on the frames of held-out prompts."""
        sae = self.edits.sae(point, group, seed)
        rows = torch.cat([one.rows(point) for one in speech.passes(point)])
        codes = sae.encode(rows)
        error = (rows - sae.decode(codes)).square().sum()
        return {
            "point": point,
            "group": group,
            "seed": seed,
            "selection": self.edits.selection(point, group, seed).to_json(),
            "fvu": float(error / (rows - rows.mean(0)).square().sum()),
            "l0": float((codes != 0).float().sum(1).mean()),
        }

    def tuning_rates(
        self, condition: Condition, noise: States, speech: States
    ) -> tuple[float, float]:
        """
        Return hallucination and word error rate on the first training clips.

        The end is allowed as the first token, so that the first position alone decides whether
        a clip without speech has a text.
        """
        n = self.study.tuning_clips
        of_noise = self.transcripts(condition, noise, min(n, len(noise.clips)), 0)
        of_speech = self.transcripts(
            condition, speech, min(n, len(speech.clips)), self.study.speech_tokens
        )
        rows = self._speech_rows(of_speech, speech)
        errors = sum(r["words"] if r["ends_first"] else r["errors"] for r in rows)
        texts = sum(not one.ends_first for one in of_noise)
        return texts / len(of_noise), errors / sum(row["words"] for row in rows)


def _grouped(rows: Sequence[dict[str, Any]], states: States) -> list[dict[str, Any]]:
    """Return the rows of clips with the number of each clip's group."""
    groups = states.clips.groups
    return [{**row, "group": group} for row, group in zip(rows, groups, strict=True)]


@dataclass(frozen=True)
class Store:
    """
    Figures kept in a folder, one file each; figures of another key are measured again.

    Attributes:
        owned: the study's folder.
        identity: what decides all figures: settings, weights, clips.
    """

    owned: OwnedFolder
    identity: Any

    def get(
        self, name: str, what: Any, make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return the figures of a file below ``figures/``, kept or made now."""
        target = self._file(name)
        text = json.dumps([self.identity, what], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        found = read_figures(target, key)
        if found is None:
            found = make()
            self.owned.claim([str(target.relative_to(self.owned.path))])
            write_figures(target, key, found)
        return found

    def _file(self, name: str) -> Path:
        return self.owned.path / "figures" / f"{name}.json"


def tune(
    measurement: Measurement,
    noise: States,
    speech: States,
    store: Store,
    progress: Callable[[str], None],
) -> dict[tuple[str, str | None], Tuned]:
    """
    Choose strength and number of latents at each point, on training clips.

    The group is None for the mean difference. The number of latents is chosen at the last point
    and kept at the others. Each tried setting's rates are kept in ``store``.
    """
    plain = _tried(measurement, Condition(), noise, speech, store)
    most = plain[2] + measurement.study.allowed_wer
    chosen: dict[tuple[str, str | None], Tuned] = {}
    for point in reversed(measurement.study.points):
        for group in (None, *GROUPS):
            progress(f"Tuning {group or 'the mean difference'} at {point}.")
            tried: list[tuple[Condition, float, float]] = []
            last = chosen.get((measurement.study.last, group))
            counts = measurement.study.counts if last is None else [last.count]
            for family in families(measurement.study, point, group, counts):
                for condition in family:
                    tried.append(_tried(measurement, condition, noise, speech, store))
                    if tried[-1][2] > measurement.study.hopeless_wer:
                        break
            chosen[point, group] = best_setting(tried, most_wer=most)
    return chosen


def _tried(
    measurement: Measurement,
    condition: Condition,
    noise: States,
    speech: States,
    store: Store,
) -> tuple[Condition, float, float]:
    def make() -> dict[str, Any]:
        rate, wer = measurement.tuning_rates(condition, noise, speech)
        return {"hallucinations": rate, "wer": wer}

    what = [condition.to_json(), measurement.study.tuning_clips]
    found = store.get(f"tuning_{condition.name}", what, make)
    return condition, found["hallucinations"], found["wer"]


def measure_all(
    measurement: Measurement,
    conditions: Sequence[Condition],
    noise: States,
    speech: States,
    store: Store,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Return the figures of every condition on held-out clips, kept or measured."""
    found: list[dict[str, Any]] = []
    for number, condition in enumerate(conditions, start=1):
        progress(f"Condition {number} of {len(conditions)}: {condition.name}.")
        found.append(
            store.get(
                condition.name,
                asdict(condition),
                lambda condition=condition: measurement.figures(
                    condition, noise, speech
                ),
            )
        )
    return found
