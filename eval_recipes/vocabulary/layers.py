"""One row a layer and group: the vocabulary results of a folder side by side."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
from sae_lens.util import extract_layer_from_tlens_hook_name

from eval_recipes.frame import saereg_block
from eval_recipes.result_files import read_result, result_files
from eval_recipes.statistics import Interval, seed_interval
from eval_recipes.vocabulary.config import EVAL
from saereg_plugin.files import atomic_path

LAYERS_FILE = "layers.csv"
COLUMNS: tuple[str, ...] = (
    "model",
    "layer",
    "hook_name",
    "release",
    "group",
    "saes",
    "aligned_fraction",
    "aligned_fraction_low",
    "aligned_fraction_high",
    "interval_over",
    "mean_max_cos",
    "token_coverage",
    "random_aligned_fraction",
)


def layer_table(folder: Path) -> pd.DataFrame:
    """
    Return the per-layer table of the vocabulary results below ``folder``.

    SAEs of one model, hook, release and group share a row. The aligned fraction's interval
    is Student's t over them, or with a single SAE its own, over latents; the other figures
    are means.

    Raises:
        InputError: if a result file is broken.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for path in result_files(folder):
        record = read_result(path)
        if record.get("eval_type_id") == EVAL:
            groups[_key(record)].append(record["eval_result_metrics"])
    rows = [_row(key, found) for key, found in groups.items()]
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return frame.sort_values(
        ["model", "layer", "hook_name", "release", "group"], ignore_index=True
    )


def write_layer_table(folder: Path) -> Path:
    """Write the table of the results in ``folder`` into it, atomically."""
    target = folder / LAYERS_FILE
    frame = layer_table(folder)
    with atomic_path(target) as temporary:
        frame.to_csv(temporary, index=False)
    return target


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    cfg = record.get("sae_cfg_dict") or {}
    metadata = cfg.get("metadata") or {}
    hook = str(metadata.get("hook_name"))
    group = (saereg_block(record) or {}).get("group")
    return (
        str(metadata.get("model_name")),
        extract_layer_from_tlens_hook_name(hook),
        hook,
        str(record.get("sae_lens_release_id")),
        str(group),
    )


def _row(key: tuple[Any, ...], found: list[dict[str, Any]]) -> dict[str, Any]:
    own = [metrics["vocabulary"] for metrics in found]
    fractions = dict(enumerate(metrics["aligned_fraction"] for metrics in own))
    if len(own) == 1:
        only = own[0]
        interval = Interval(
            only["aligned_fraction"],
            only["aligned_fraction_ci_low"],
            only["aligned_fraction_ci_high"],
            only["aligned_fraction_n"],
        )
    else:
        interval = seed_interval(fractions)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    values = (
        *key,
        len(own),
        interval.value,
        interval.low,
        interval.high,
        "latents" if len(own) == 1 else "SAEs",
        mean([metrics["mean_max_cos"] for metrics in own]),
        mean([metrics["token_coverage"] for metrics in own]),
        mean([metrics["baseline"]["aligned_fraction"] for metrics in found]),
    )
    return dict(zip(COLUMNS, values, strict=True))
