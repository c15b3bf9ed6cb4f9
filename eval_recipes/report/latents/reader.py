"""Reader of the results about single latents."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from safetensors import SafetensorError

from eval_recipes.attribution.table import SCORES
from eval_recipes.cross_seed.stability import STABILITY
from eval_recipes.death.table import DEATHS
from eval_recipes.examples.reader import SAEExamples, read_examples
from eval_recipes.mdl.table import BALANCE
from eval_recipes.report.latents.inputs import (
    Column,
    Explained,
    LatentInputs,
    OtherSeed,
    Stability,
    short,
)
from eval_recipes.report.source import PageSAE, Record, Source, extra_of, mapping
from eval_recipes.steering.texts import judges_of, read_texts, results_of
from saereg_plugin.errors import InputError

T = TypeVar("T")

_WEIGHTS = "sae_weights.safetensors"
"""SAELens' ``SAE_WEIGHTS_FILENAME``; to import it would import all of SAELens."""

_ABSENT = {
    "examples": "No activating examples: the evaluation 'examples' has no result of this SAE.",
    "cross_seed": "No match in other seeds: 'cross_seed' has no result of this SAE.",
    "autointerp": "No explanations: 'autointerp' has no result of this SAE.",
    "steering": "No steered texts: 'steering' has no result of this SAE.",
    "death": "No causes of death: the evaluation 'death' has no result of this SAE.",
}
"""Said on the page where an evaluation has no result."""


def read_inputs(source: Source) -> list[LatentInputs]:
    """
    Return what is known of the latents of every SAE, in the order of the page.

    SAEs are left out of which no evaluation has a result about latents, other than figures of
    ``core``. A table that is missing or damaged is named in ``missing``.
    """
    reader = _Reader(source)
    found = [reader.read(sae) for sae in source.saes]
    return [
        one
        for one in found
        if one.size
        and (
            one.balance is not None
            or one.attribution is not None
            or any(e not in one.missing for e in _ABSENT)
        )
    ]


class _Reader:
    """The results of one page, by evaluation and SAE."""

    def __init__(self, source: Source) -> None:
        self._entries = source.entries
        self._told = source.told
        self._labels = {sae.key: sae.label for sae in source.saes}
        self._results = {
            evaluation: {
                sae.label: (path, record)
                for sae, path, record in source.results(evaluation)
            }
            for evaluation in (*_ABSENT, "core", "mdl", "attribution")
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
        deaths = known("death", lambda _, path, __: DEATHS.read(path))
        core = known("core", lambda _, __, record: _details(record, "index"))
        balance = known("mdl", lambda _, path, __: BALANCE.read(path))
        attribution = known("attribution", lambda _, path, __: SCORES.read(path))
        scored = known("autointerp", lambda _, __, record: _explained(record))
        steered = known("steering", lambda _, path, record: _steered(path, record))
        texts, steering = steered or (None, {})
        explanations, judge = scored or ({}, None)
        return LatentInputs(
            sae=sae,
            size=_size(sae, stability, examples, [balance, deaths, attribution], core),
            stability=stability,
            examples=examples,
            core=core or [],
            explanations={**_from_texts(texts), **explanations},
            judge=judge,
            texts=texts,
            steering=steering,
            cosines=self._cosines(sae),
            balance=balance,
            deaths=deaths,
            attribution=attribution,
            missing=missing,
        )

    def _stability(self, sae: PageSAE, path: Path, _: Record) -> Stability:
        table = STABILITY.read_table(path)
        about = json.loads((table.schema.metadata or {}).get(b"saereg", b"{}"))
        pairs = [*zip(about.get("other_seeds", ()), about.get("other_sae_ids", ()))]
        missing = {name for seed, _ in pairs for name in _of_seed(seed)} - set(
            table.column_names
        )
        if missing:
            raise InputError(
                f"The stability table of {path.name!r} lacks the columns "
                f"{', '.join(sorted(missing))}. Run the evaluation 'cross_seed' again."
            )
        others = [
            OtherSeed(seed, sae_id, self._labels.get((sae.release, sae_id)))
            for seed, sae_id in pairs
        ]
        return Stability(table.to_pandas(), others)

    def _cosines(self, sae: PageSAE) -> Column | None:
        """Return the cosines by the weights of the release, if it was named and has both."""
        found = self._entries.get(sae.key)
        if found is None or found[0].folder is None:
            return None
        folder, entry = found[0].folder, found[1]
        # a page without a release needs no torch
        from safetensors.torch import load_file

        from saereg_plugin.metrics import encoder_decoder_cosines

        try:
            weights = load_file(folder / entry.path / _WEIGHTS)
        except (OSError, SafetensorError):
            # the page names files of a release that are missing
            return None
        encoder, decoder = weights.get("W_enc"), weights.get("W_dec")
        if encoder is None or decoder is None or encoder.T.shape != decoder.shape:
            return None
        cosines = encoder_decoder_cosines(encoder.T.float(), decoder.float())
        return [short(value) for value in cosines.tolist()]


def _of_seed(seed: Any) -> list[str]:
    """Return the columns that a stability table has for another seed."""
    sides = [
        f"{side}_{figure}_{seed}"
        for side in ("decoder", "encoder")
        for figure in ("partner", "similarity")
    ]
    return [*sides, f"shared_{seed}"]


def _details(record: Record, key: str) -> list[dict[str, Any]]:
    """Return the details of single latents: those with an id under ``key``."""
    return _of_latents(record.get("eval_result_details") or (), key)


def _of_latents(entries: Any, key: str) -> list[dict[str, Any]]:
    """Return the entries with an id of a latent; results of others may hold anything."""
    return [
        entry
        for entry in (entries if isinstance(entries, (list, tuple)) else ())
        if isinstance(entry, dict) and type(entry.get(key)) is int and entry[key] >= 0
    ]


def _explained(record: Record) -> tuple[dict[int, Explained], str | None]:
    """Return explanations by latent, and the chat model; also of SAEBench's own results."""
    own = [d for d in _details(record, "latent") if "explanation" in d]
    entries = own or _of_latents([*extra_of(record).values()], "latent")
    config = mapping(record.get("eval_config"))
    found = {
        entry["latent"]: Explained(
            _text(entry.get("explanation")),
            short(entry.get("score")),
            short(entry.get("checked_score")),
            (short(entry.get("precision")), short(entry.get("recall")))
            if config.get("explainer") == "n2g"
            else None,
        )
        for entry in entries
    }
    judged = any(one.score is not None for one in found.values())
    return found, _text(config.get("judge_model")) or (
        "a chat model" if judged else None
    )


def _text(value: Any) -> str | None:
    """Return text that UTF-8 can hold; None where a result holds something else."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "replace").decode("utf-8")


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
    config, judges = mapping(record.get("eval_config")), judges_of(texts)
    judged = {f"{judges[0]}_score", f"{judges[0]}_success"} if judges else set[str]()
    if not judged or not judged <= set(texts.columns):
        raise InputError(
            f"The table of texts of {path.name!r} lacks the columns of a judge. Run the "
            "evaluation 'steering' again."
        )
    settings = {
        "amounts": config.get("amounts") or [],
        "mode": config.get("strength_mode"),
        "judge": judges[0],
    }
    return texts, settings


def _size(
    sae: PageSAE,
    stability: Stability | None,
    examples: SAEExamples | None,
    tables: Sequence[pd.DataFrame | None],
    core: list[dict[str, Any]] | None,
) -> int:
    """Return the number of latents, by the first source that has it; 0 if none does."""
    if stability is not None:
        return len(stability.table)
    if examples is not None:
        return len(examples)
    for table in tables:
        if table is not None:
            return len(table)
    width = sae.cfg.get("d_sae")
    return width if isinstance(width, int) else len(core or ())
