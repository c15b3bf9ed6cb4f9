"""Held-out and latent figures of a stage's SAEs: measured once, kept in one file, as tidy rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.results.subject import Failure
from eval_recipes.results.tidy import COLUMNS
from eval_recipes.results.to_json import plain
from eval_recipes.running.artifacts import package_versions
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import heldout_of
from eval_recipes.running.plan import subject_hashes
from eval_recipes.studies.framework.kept_figures import read_figures, write_figures
from eval_recipes.studies.framework.latent_figures import latent_figures
from saereg_plugin.sources import corpora

HELDOUT = "heldout"
LATENTS = "latents"
_CATEGORY = "figures"

Figures = dict[str, dict[str, dict[str, Any]]]
"""By SAE id, evaluation and figure."""


def measure(
    context: RunContext, target: Path, *, latents: bool = True
) -> tuple[pd.DataFrame, list[Failure]]:
    """
    Return held-out and latent figures of the subjects as tidy rows, and what failed.

    They are read from ``target`` if it is whole and of the same SAEs, text and settings.

    Args:
        context: the subjects and the text.
        target: JSON file.
        latents: whether to measure the latent figures.
    """
    key = _key(context, latents=latents)
    kept = read_figures(target, key)
    if kept is not None:
        return _frame(context, kept), []
    figures, failures = _measure(context, latents=latents)
    if not failures:
        write_figures(target, key, figures)
    return _frame(context, figures), failures


def _measure(context: RunContext, *, latents: bool) -> tuple[Figures, list[Failure]]:
    table = heldout_of(context)
    failures = [Failure(HELDOUT, name, why) for name, why in table.failures.items()]
    figures: Figures = {}
    for name, found in table.items():
        values = dataclasses.asdict(found)
        values["frac_alive"] = found.alive / found.d_sae
        figures[name] = {HELDOUT: values}
    if latents:
        found, causes = latent_figures(context)
        failures += [Failure(LATENTS, name, why) for name, why in causes.items()]
        for name, values in found.items():
            figures.setdefault(name, {})[LATENTS] = dict(values)
    return figures, failures


def _key(context: RunContext, *, latents: bool) -> str:
    settings = {
        "saes": sorted(
            [*dataclasses.astuple(subject), digest]
            for subject, digest in subject_hashes(context).items()
        ),
        "corpus": corpora.identity(context.corpus),
        "heldout_tokens": context.heldout_tokens,
        "dtype": context.dtype,
        "device": context.device,
        "seed": context.seed,
        "latents": latents,
        "packages": package_versions(),
    }
    text = json.dumps(plain(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _frame(context: RunContext, figures: Figures) -> pd.DataFrame:
    rows = list(_rows(context, figures))
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    numeric = {"value": "float64", "low": "float64", "high": "float64"}
    return frame.astype({**numeric, "seed": "Int64", "n": "Int64"})


def _rows(context: RunContext, figures: Figures) -> Iterator[dict[str, Any]]:
    for subject in context.subjects:
        for name, values in figures.get(subject.sae_id, {}).items():
            for figure, value in values.items():
                if "_ci_" in figure or figure.endswith("_n"):
                    continue
                yield {
                    "release": subject.release,
                    "group": subject.group,
                    "seed": subject.seed,
                    "sae_id": subject.sae_id,
                    "eval": name,
                    "metric": f"{_CATEGORY}/{figure}",
                    "value": value,
                    "low": values.get(f"{figure}_ci_low"),
                    "high": values.get(f"{figure}_ci_high"),
                    "n": values.get(f"{figure}_n"),
                }
