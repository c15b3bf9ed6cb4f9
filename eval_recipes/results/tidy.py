"""Result records as rows of one tidy table, architecture and penalty included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from saereg_plugin.errors import printable
from saereg_plugin.registry import acts, regularizer_defaults

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


_PREFIX = "regularized_"
# Spellings of SAEBench's and dictionary_learning's files, and SAELens' own.
_SAME = {
    "batch_topk": "batchtopk",
    "batchtopktrainer": "batchtopk",
    "batchtopksae": "batchtopk",
    "matryoshka_batch_topk": "matryoshka_batchtopk",
    "matryoshkabatchtopktrainer": "matryoshka_batchtopk",
    "standardtrainer": "standard",
    "standardtraineraprilupdate": "standard",
    "standard_april_update": "standard",
    "trainertopk": "topk",
    "topktrainer": "topk",
    "jumprelutrainer": "jumprelu",
    "gatedsaetrainer": "gated",
    "panneal": "p_anneal",
    "pannealtrainer": "p_anneal",
}
_NOT_SHOWN = {"name", "label", "coefficient", "norm"}


def architecture(cfg: Any) -> str | None:
    """
    Return the architecture an SAE was trained as, or None if its configuration does not say.

    A BatchTopK SAE is saved as a JumpReLU SAE: its metadata name the trained architecture.
    Files of older versions name it elsewhere.

    >>> architecture({"architecture": "jumprelu",
    ...               "metadata": {"training_architecture": "regularized_batchtopk"}})
    'batchtopk'
    """
    if not isinstance(cfg, Mapping):
        return None
    candidates = (
        _mapping(cfg, "metadata").get("training_architecture"),
        cfg.get("architecture_str"),
        cfg.get("architecture"),
        _mapping(cfg, "trainer").get("trainer_class"),
        cfg.get("trainer_class"),
        cfg.get("activation_fn_str"),
    )
    for name in candidates:
        # upstream writes a method as "<bound method ...>"
        if isinstance(name, str) and name and not name.startswith("<"):
            name = name.removeprefix(_PREFIX)
            return _SAME.get(name.lower(), name)
    return None


def penalty(cfg: Any) -> str | None:
    """
    Return an SAE's regularisers in few words, "none" if it had none, None if unknown.

    Values at their defaults are left out.

    >>> penalty({"metadata": {"training_architecture_details": {"regularizers": [
    ...     {"name": "weight_penalty", "norm": "l2", "coefficient": 0.006, "target": "both"}]}}})
    'l2 0.006'
    """
    if not isinstance(cfg, Mapping):
        return None
    metadata = _mapping(cfg, "metadata")
    details = metadata.get("training_architecture_details")
    given = details.get("regularizers") if isinstance(details, Mapping) else None
    if given is None:
        given = cfg.get("regularizers")
    if given is None:
        return "none" if metadata.get("training_architecture") else None
    if not isinstance(given, (list, tuple)) or not all(map(_is_regularizer, given)):
        return None
    parts = [_regularizer(item) for item in given if acts(item)]
    return " + ".join(parts) or "none"


def _is_regularizer(item: Any) -> bool:
    """Return whether a configuration's entry can be read as a regulariser."""
    if not isinstance(item, Mapping):
        # it is no penalty, and says so to ``acts``
        return True
    coefficient = item.get("coefficient")
    return coefficient is None or (
        isinstance(coefficient, (int, float)) and abs(coefficient) < 1e300
    )


def _mapping(cfg: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a nested mapping; an empty one if there is none."""
    found = cfg.get(name)
    return found if isinstance(found, Mapping) else {}


def _regularizer(item: Mapping[str, Any]) -> str:
    name = str(item.get("norm") or item.get("name"))
    words = [name, f"{float(item.get('coefficient') or 0):g}"]
    defaults = regularizer_defaults(str(item.get("name")))
    for key, value in item.items():
        if key not in _NOT_SHOWN and key in defaults and value != defaults[key]:
            # a schedule is a table of its own; that there is one must suffice here
            words.append(key if isinstance(value, Mapping) else f"{key}={value}")
    return " ".join(words)
