"""One row a layer and group: the vocabulary results of a folder side by side."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
from sae_lens.util import extract_layer_from_tlens_hook_name

from eval_recipes.results.reading import read_result, result_files
from eval_recipes.results.tidy import saereg_block
from eval_recipes.statistics.seeds import Interval, seed_interval
from eval_recipes.vocabulary.options import EVAL
from saereg_plugin.files import atomic_path

LAYERS_FILE = "layers.csv"
FIGURES = ("aligned_fraction", "mean_max_cos", "token_coverage")
RANDOM = "random_aligned_fraction"
COLUMNS: tuple[str, ...] = (
    *("model", "layer", "hook_name", "release", "group", "saes", "interval_over"),
    *(
        f"{figure}{part}"
        for figure in (*FIGURES, RANDOM)
        for part in ("", "_low", "_high", "_n")
    ),
)


def layer_table(folder: Path) -> pd.DataFrame:
    """
    Return the per-layer table of the vocabulary results below ``folder``.

    SAEs of one model, hook, release and group share a row. Intervals are Student's t over
    them (n SAEs), or with a single SAE its own, over latents (of coverage: tokens). The
    random dictionary is the same for all SAEs of one shape: its interval is over its latents.

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
    baselines = [metrics["baseline"] for metrics in found]
    parts = [_over_saes(own, figure) for figure in FIGURES]
    over = "latents" if len(own) == 1 else "SAEs"
    first = "aligned_fraction"
    same = all(baseline[first] == baselines[0][first] for baseline in baselines)
    parts.append(_over_saes(baselines[:1] if same else baselines, first))
    ends = [value for part in parts for value in part[:4]]
    return dict(zip(COLUMNS, (*key, len(own), over, *ends), strict=True))


def _over_saes(metrics: list[dict[str, Any]], figure: str) -> Interval:
    """Return a figure's mean over SAEs with an interval over them; of one SAE its own."""
    if len(metrics) > 1:
        return seed_interval({i: each[figure] for i, each in enumerate(metrics)})
    (only,) = metrics
    low, high, n = (only[f"{figure}_{end}"] for end in ("ci_low", "ci_high", "n"))
    return Interval(only[figure], low, high, n)
