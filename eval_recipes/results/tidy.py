"""Result records as rows of one tidy table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from eval_recipes.results.sae_labels import architecture, penalty
from saereg_plugin.errors import printable

COLUMNS = [
    "release",
    "group",
    "seed",
    "sae_id",
    "architecture",
    "penalty",
    "eval",
    "metric",
    "value",
    "low",
    "high",
    "n",
]

# Endings of a metric's companions, and the column that each fills.
_COMPANIONS = {"_ci_low": "low", "_ci_high": "high", "_n": "n"}


def saereg_block(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return this package's block of a result; None in SAEBench's own files."""
    extra = record.get("eval_result_unstructured")
    block = extra.get("saereg") if isinstance(extra, dict) else None
    return block if isinstance(block, dict) else None


def data_of(record: dict[str, Any]) -> str:
    """Return the source of a result's labelled texts: "hub" or "embedded"."""
    extra = record.get("eval_result_unstructured")
    block = saereg_block(record) or {}
    given = extra.get("data") if isinstance(extra, dict) else None
    return str(block.get("data") or given or "hub")


def one_line(name: Any) -> str | None:
    r"""
    Return a name in one line, with control characters escaped.

    >>> one_line("a\nb\x1b[2J"), one_line(None)
    ('a\\nb\\x1b[2J', None)
    """
    if name is None:
        return None
    text = printable(str(name))
    return text.replace("\n", "\\n").replace("\t", "\\t")


def rows_of(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """
    Yield one tidy row per metric, with its interval and count.

    Names pass through ``one_line``: a downloaded file may hold terminal codes.
    """
    block = saereg_block(record) or {}
    cfg = record.get("sae_cfg_dict")
    common = {
        "release": one_line(record.get("sae_lens_release_id")),
        "group": one_line(block.get("group")),
        "seed": block.get("seed"),
        "sae_id": one_line(record.get("sae_lens_id")),
        "architecture": one_line(architecture(cfg)),
        "penalty": one_line(penalty(cfg)),
        "eval": one_line(record["eval_type_id"]),
    }
    for category, metrics in record["eval_result_metrics"].items():
        companions = {
            metric + suffix
            for metric in metrics
            for suffix in _COMPANIONS
            if metric + suffix in metrics
        }
        for metric, value in metrics.items():
            if metric in companions or isinstance(value, (str, list, dict)):
                continue
            if _is_no_score(record, category):
                continue
            interval = {
                column: metrics.get(metric + suffix)
                for suffix, column in _COMPANIONS.items()
            }
            yield {
                **common,
                "metric": one_line(f"{category}/{metric}"),
                "value": value,
                **interval,
            }


def _is_no_score(record: dict[str, Any], category: str) -> bool:
    """
    Return whether a category only fills upstream's format.

    Without a language model autointerp lacks upstream's scores and writes -1 for them.
    """
    extra = record.get("eval_result_unstructured")
    judged = not isinstance(extra, dict) or extra.get("comparable_with_llm_scores")
    return category == "autointerp" and judged is False


def frame_of(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """
    Return one row per metric, columns ``COLUMNS``.

    ``metric`` is ``category/name``. ``low``, ``high``, ``n``, ``architecture``, ``penalty``,
    ``group`` and ``seed`` may be missing.
    """
    return frame_of_rows(row for record in records for row in rows_of(record))


def frame_of_rows(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return rows with ``COLUMNS`` as a table of the same types, whatever is missing."""
    frame = pd.DataFrame(list(rows), columns=pd.Index(COLUMNS))
    numeric = {"value": "float64", "low": "float64", "high": "float64"}
    return frame.astype({**numeric, "seed": "Int64", "n": "Int64"})
