"""The parquet table of texts next to a result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from eval_recipes.results.sidecar import SideTable
from eval_recipes.results.subject import Subject
from eval_recipes.saebench.autointerp.figures import Explanation
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.judges.judge_trials import Judged
from eval_recipes.steering.judges.log_probability import Fluency
from eval_recipes.steering.options import EVAL
from eval_recipes.steering.select.candidates import KnownStability, interp_score

TEXTS_SUFFIX = "_texts.parquet"

COLUMNS = {
    "latent": pa.int64(),
    "explanation": pa.string(),
    "interp_score": pa.float64(),
    "stability": pa.float64(),
    "shared_with": pa.string(),
    "arm": pa.string(),
    "amount": pa.float64(),
    "strength": pa.float64(),
    "prompt": pa.string(),
    "repeat": pa.int64(),
    "original": pa.string(),
    "text": pa.string(),
    "original_perplexity": pa.float64(),
    "perplexity": pa.float64(),
    "near_ties": pa.int64(),
}
"""
Columns except the judges', ``<judge>_score``, ``_success``, ``_status``, ``_reason``.

``shared_with`` holds the matching latents of other seeds, JSON, by seed. ``text`` is steered in
the arms ``steered`` and ``random``, and another unsteered text in the arms ``unsteered`` and
``calibration``. Null: the latent has no explanation, score or stability, or nothing was added.

Rows of the arm ``calibration`` are no result: a judge's threshold was learned from their scores.
Each pair has two, one per order. Their perplexities and the columns of judges that learned no
threshold are null.
"""

_OF_JUDGE = {
    "score": pa.float64(),
    "success": pa.bool_(),
    "status": pa.string(),
    "reason": pa.string(),
}

TEXTS = SideTable("Texts", EVAL, "texts", TEXTS_SUFFIX, COLUMNS)
"""``read`` takes the table's path or that of the result that names it."""

CALIBRATION = "calibration"


def texts_table(
    judged: Judged,
    explanations: Mapping[int, Explanation],
    stability: KnownStability,
    prompts: Sequence[Prompt],
    subject: Subject,
) -> Any:
    """Return the ``pyarrow.Table`` of one SAE, a row per pair, arm by arm, calibration last."""
    rows: list[dict[str, Any]] = []
    shared_with = {
        trial.latent: json.dumps(dict(stability.partners[trial.latent]), sort_keys=True)
        for trial in judged.trials
        if trial.latent in stability.partners
    }
    unknown = Fluency(math.nan, math.nan)
    fluency = [*judged.fluency, *(unknown for _ in judged.calibration)]
    trials = [*judged.trials, *judged.calibration]
    for trial, fluent in zip(trials, fluency, strict=True):
        explanation = explanations.get(trial.latent)
        row: dict[str, Any] = {
            "latent": trial.latent,
            "explanation": explanation.text if explanation else None,
            "interp_score": interp_score(explanation) if explanation else None,
            "stability": stability.shares.get(trial.latent),
            "shared_with": shared_with.get(trial.latent),
            "arm": trial.arm,
            "amount": trial.amount,
            "strength": trial.strength,
            "prompt": prompts[trial.prompt].text,
            "repeat": trial.repeat,
            "original": trial.original.text,
            "text": trial.other.text,
            "original_perplexity": _known(fluent.original),
            "perplexity": _known(fluent.steered),
            "near_ties": trial.original.near_ties + trial.other.near_ties,
        }
        rows.append(row)
    kinds = dict(COLUMNS)
    for judge, said in judged.verdicts.items():
        learned = judged.calibration_verdicts.get(judge)
        verdicts = [*said, *(learned or [None] * len(judged.calibration))]
        kinds |= {f"{judge}_{name}": kind for name, kind in _OF_JUDGE.items()}
        for row, verdict in zip(rows, verdicts, strict=True):
            if verdict is not None:
                row |= {
                    f"{judge}_score": verdict.score,
                    f"{judge}_success": verdict.success,
                    f"{judge}_status": verdict.status.value,
                    f"{judge}_reason": verdict.reason or None,
                }
    arrays = {
        name: pa.array([row.get(name) for row in rows], kind)
        for name, kind in kinds.items()
    }
    return TEXTS.of(arrays, subject, judges=list(judged.verdicts))


def read_texts(path: str | Path) -> pd.DataFrame:
    """Read the texts of one SAE, given their own path or a result's; see ``SideTable.read``."""
    return TEXTS.read(path)


def results_of(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are results, without the calibration's rows."""
    return texts.loc[texts["arm"] != CALIBRATION]


def judges_of(texts: pd.DataFrame) -> list[str]:
    """Return the judges of a table of texts, in their order."""
    ends = "_status"
    return [name.removesuffix(ends) for name in texts.columns if name.endswith(ends)]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
