"""The order of texts: clusters, predicted difficulty and quality, batches."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eval_recipes.data_order.batches import draw_batches
from eval_recipes.data_order.clusters import Clusters, cluster_texts, score_clusters
from eval_recipes.data_order.features import Features
from eval_recipes.data_order.options import OrderOptions
from eval_recipes.data_order.probes import Target
from eval_recipes.data_order.scores import (
    NAMES,
    Difference,
    Score,
    TargetScores,
    score_target,
)
from eval_recipes.data_order.texts import Labels, Texts
from eval_recipes.statistics.interval import Array
from saereg_plugin.files import atomic_path, sha256, write_json

ORDER_FILE, SCORES_FILE = "order.parquet", "scores.json"
LATENTS_SHOWN = 10

_TARGETS: tuple[Target, ...] = ("difficulty", "quality")


@dataclass(frozen=True)
class DataOrder:
    """
    Texts in order, and held-out scores of what they were ordered by.

    Attributes:
        frame: one row a text, in order; those that were left out are last.
        clusters: the clusters.
        scores: held-out scores of every kind of features.
        differences: scores of the SAE minus those of others.
        latents: by target, the latents with the largest coefficients of the final probe, for
            one standard deviation.
        own_share: share of the ordered texts that are of the cluster of their batch.
        options: the settings.
    """

    frame: pd.DataFrame
    clusters: Clusters
    scores: list[Score]
    differences: list[Difference]
    latents: dict[str, dict[int, float]]
    own_share: float
    options: OrderOptions

    @property
    def verdicts(self) -> list[str]:
        """Return sentences that say where chance, tf-idf or raw activations win."""
        targets = dict.fromkeys(score.target for score in self.scores)
        return [line for target in targets for line in self._verdict(target)]

    def _verdict(self, target: str) -> list[str]:
        metric = next(one.metric for one in self.scores if one.target == target)
        own = {
            one.features: one
            for one in self.scores
            if (one.target, one.metric) == (target, metric)
        }
        sae = own["sae"]
        lines = [
            f"{target}: the SAE reaches a held-out {metric} of {sae.held_out.value:.3f}."
            f"{_doubt(sae)}"
        ]
        for one in self.differences:
            if (one.target, one.metric) != (target, metric):
                continue
            value = one.value
            against = f"{own[one.features].held_out.value:.3f}"
            if not value.distinguishable:
                lines.append(
                    f"{target}: no difference from {NAMES[one.features]} ({against}) is shown."
                )
                continue
            low, high = value.ends
            word = "better" if value.value > 0 else "worse"
            lines.append(
                f"{target}: the SAE does {word} than {NAMES[one.features]} ({against}): "
                f"{value.value:+.3f} [{low:+.3f}, {high:+.3f}]."
            )
        return lines

    def write(self, folder: Path, **about: Any) -> Path:
        """
        Write ``order.parquet`` and ``scores.json``, each whole or not at all; return the first.

        ``about`` is plain JSON on the texts and the SAE; both files have it.
        """
        path = folder / ORDER_FILE
        settings = {**about, **dataclasses.asdict(self.options)}
        table: Any = pa.Table.from_pandas(self.frame, preserve_index=False)
        metadata = {b"saereg": json.dumps(settings).encode()}
        table = table.replace_schema_metadata({**table.schema.metadata, **metadata})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)
        record = {
            "settings": settings,
            "order": {
                "file": ORDER_FILE,
                "rows": len(self.frame),
                "sha256": sha256(path),
            },
            "clusters": {
                "n": self.clusters.n,
                "silhouettes": {
                    str(k): v for k, v in self.clusters.silhouettes.items()
                },
            },
            "own_cluster_share": self.own_share
            if self.own_share == self.own_share
            else None,
            "scores": [_plain(one, "held_out") for one in self.scores],
            "differences": [_plain(one, "value") for one in self.differences],
            "latents": {
                target: [{"latent": j, "coefficient": c} for j, c in found.items()]
                for target, found in self.latents.items()
            },
            "verdicts": self.verdicts,
        }
        write_json(folder / SCORES_FILE, _without_nan(record))
        return path


def order_texts(
    texts: Texts,
    labels: Labels,
    features: Features,
    options: OrderOptions,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> DataOrder:
    """
    Cluster texts, predict what is labelled, and draw batches from easy to hard.

    Texts with a label are ordered by their held-out prediction, others by a probe on all
    labelled texts, so that all are on one scale. Without labels of difficulty there is one
    stage; without labels of quality no text is left out.

    Args:
        texts: the texts.
        labels: of some of them; see ``Labels.none``.
        features: of the texts.
        options: the settings.
        progress: called with a line at each step.
    """
    settings: dict[str, int] = {
        "permutations": options.permutations,
        "seed": options.seed,
    }
    progress("Clustering.")
    clusters = cluster_texts(features, options.clusters, seed=options.seed)
    scores, differences = score_clusters(features, texts.groups, clusters.n, **settings)
    predicted: dict[Target, Array] = {}
    latents: dict[str, dict[int, float]] = {}
    for target in _TARGETS:
        y: Array = getattr(labels, target)
        labelled = np.flatnonzero(~np.isnan(y))
        if not len(labelled):
            continue
        found = score_target(
            features,
            target,
            labelled,
            y[labelled],
            texts.groups[labelled],
            progress=progress,
            **settings,
        )
        scores, differences = scores + found.scores, differences + found.differences
        predicted[target] = _all_predictions(found, y, options)
        latents[target] = _strongest(found, y)
    quality = predicted.get("quality")
    kept = np.ones(len(texts), dtype=bool)
    if quality is not None:
        kept = quality >= options.least_quality
    batches = draw_batches(
        np.flatnonzero(kept),
        clusters.labels,
        predicted.get("difficulty"),
        batch_size=options.batch_size,
        mixing=options.mixing,
        stages=options.stages,
        seed=options.seed,
    )
    places = {"batch": batches.batch, "stage": batches.stage}
    frame = _frame(texts, labels, features, clusters, predicted, batches.order, places)
    return DataOrder(
        frame=frame,
        clusters=clusters,
        scores=scores,
        differences=differences,
        latents=latents,
        own_share=batches.own_share(clusters.labels),
        options=options,
    )


def _all_predictions(found: TargetScores, y: Array, options: OrderOptions) -> Array:
    """Return predictions of all texts, each by a probe that has not seen its label."""
    probe, held_out = found.probes[options.score_by]
    known = ~np.isnan(y)
    predicted = np.empty(len(y))
    predicted[known] = held_out.values
    if not known.all():
        predicted[~known] = probe.predict(np.flatnonzero(~known))[0]
    return predicted


def _strongest(found: TargetScores, y: Array) -> dict[int, float]:
    """Return the latents with the largest coefficients of the probe on all labelled texts."""
    nobody = np.flatnonzero(np.isnan(y))[:0]
    weights = found.probes["sae"][0].predict(nobody)[1]
    order = sorted(weights, key=lambda latent: (-abs(weights[latent]), latent))
    return {latent: weights[latent] for latent in order[:LATENTS_SHOWN]}


def _frame(
    texts: Texts,
    labels: Labels,
    features: Features,
    clusters: Clusters,
    predicted: Mapping[Target, Array],
    order: Any,
    places: Mapping[str, Any],
) -> pd.DataFrame:
    """Return a row a text: ordered texts first, then the others in the order of the file."""
    rest = np.setdiff1d(np.arange(len(texts)), order)
    rows = np.concatenate([order, rest]).astype(np.intp)

    def with_gaps(values: Any) -> Any:
        return pd.array([*values.tolist(), *[None] * len(rest)], dtype="Int64")

    columns: dict[str, Any] = {
        "id": np.array(texts.ids, dtype=object)[rows],
        "position": with_gaps(np.arange(len(order))),
        **{name: with_gaps(values) for name, values in places.items()},
        "kept": np.arange(len(rows)) < len(order),
        "cluster": clusters.labels[rows],
        "tokens": features.tokens[rows],
    }
    for target, values in predicted.items():
        known: Array = getattr(labels, target)
        columns[target] = pd.array(
            [None if v != v else v for v in known[rows].tolist()], dtype="Float64"
        )
        columns[f"{target}_predicted"] = values[rows]
    return pd.DataFrame(columns)


def _doubt(sae: Score) -> str:
    """Return sentences to append if a score may be chance."""
    low = sae.held_out.low
    causes: list[str] = []
    if sae.p_value is not None and sae.p_value > 0.05:
        causes.append(f"p = {sae.p_value:.2g} against shuffled labels")
    if low is not None and low <= sae.majority:
        causes.append(
            f"its interval has {sae.majority:g}, the score of one answer for all"
        )
    if not causes:
        return ""
    advice = "" if sae.target == "clusters" else " Do not order by it."
    return f" This is not shown to be better than chance: {'; '.join(causes)}.{advice}"


def _plain(one: Score | Difference, field: str) -> dict[str, Any]:
    """Return plain JSON, the interval as a mapping."""
    return dataclasses.asdict(one) | {field: getattr(one, field)._asdict()}


def _without_nan(value: Any) -> Any:
    """Return plain JSON with null for NaN: a metric without a value."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value
