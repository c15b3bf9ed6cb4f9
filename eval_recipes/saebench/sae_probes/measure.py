"""Probes on splits without duplicate texts, and upstream's overlap."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sae_bench.evals.sparse_probing_sae_probes.eval_config import (
    SparseProbingSaeProbesEvalConfig,
)
from sae_bench.evals.sparse_probing_sae_probes.eval_output import (
    SparseProbingSaeProbesEvalOutput,
)
from sae_lens import SAE
from sae_probes.run_sae_evals import get_sorted_indices, mean_act_normalization
from sae_probes.utils_training import find_best_reg
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat
from eval_recipes.results.subject import Subject
from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.saebench.sae_probes.data import (
    Rows,
    Split,
    Texts,
    deduplicated_split,
    distinct_rows,
    load_activations,
    read_texts,
    rows_in_train,
    upstream_split,
)
from eval_recipes.saebench.sae_probes.options import EVAL, SaeProbesOptions
from eval_recipes.saebench.sae_probes.output import (
    CorrectedSaeProbesCategories,
    CorrectedSaeProbesOutput,
    DeduplicatedMetrics,
    OverlapMetrics,
    SaeProbesDetail,
)
from eval_recipes.saebench.upstream import UpstreamError
from eval_recipes.statistics.interval import (
    N_RESAMPLES,
    Array,
    Interval,
    percentile_interval,
    resampled_weights,
)
from saereg_plugin.files import write_json

# Latents held at once while encoding, as float32: 2^26 are 256 MiB.
_LATENT_VALUES = 1 << 26


class Predictions(NamedTuple):
    """Predictions of a probe on the test texts of one set, shape (texts,) each."""

    labels: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    scores: Array


@contextmanager
def quiet_sklearn() -> Iterator[None]:
    """Silence warnings of every fit about deprecated arguments of upstream."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'penalty' was deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Inconsistent values: penalty", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def encode(sae: SAE[Any], activations: Tensor) -> Tensor:
    """Return the latents of ``activations`` (rows, d_in), on the CPU in float32."""
    rows = max(1, min(128, _LATENT_VALUES // int(sae.cfg.d_sae)))
    with torch.inference_mode():
        parts = [
            sae.encode(batch.to(sae.device)).cpu().float()
            for batch in activations.split(rows)
        ]
    return torch.cat(parts)


def probe_latents(
    latents: Tensor,
    labels: Rows,
    split: Split,
    *,
    ks: Sequence[int],
    penalty: str,
    seed: int,
) -> dict[int, Predictions]:
    """
    Train upstream's probes on the k latents that tell the training classes best apart.

    The method of ``sae_probes.run_sae_evals.run_sae_eval``, on another split.
    """
    train, y_train = latents[split.train], torch.from_numpy(labels[split.train])
    ranked = get_sorted_indices(train, y_train, mean_act_normalization)
    return {
        k: _probe(
            train[:, ranked[:k]],
            labels[split.train],
            latents[split.test][:, ranked[:k]],
            labels[split.test],
            penalty=penalty,
            seed=seed,
        )
        for k in ks
    }


def probe_activations(
    activations: Tensor, labels: Rows, split: Split, *, seed: int
) -> Predictions:
    """Train upstream's baseline: logistic regression on the model's own activations."""
    return _probe(
        activations[split.train],
        labels[split.train],
        activations[split.test],
        labels[split.test],
        penalty="l2",
        seed=seed,
    )


def _probe(
    train: Tensor, y_train: Rows, test: Tensor, y_test: Rows, *, penalty: str, seed: int
) -> Predictions:
    with quiet_sklearn():
        found = find_best_reg(train, y_train, test, y_test, penalty=penalty, seed=seed)
    classifier: Any = found.classifier
    return Predictions(
        labels=y_test == 1,
        predicted=np.asarray(classifier.predict(test)) == 1,
        scores=np.asarray(classifier.predict_proba(test)[:, 1], dtype=np.float64),
    )


def weighted_accuracy(predictions: Predictions, weights: Array) -> Array:
    """Return the accuracy for each weighting, (weightings, texts) -> (weightings,)."""
    right = (predictions.labels == predictions.predicted).astype(np.float64)
    return weights @ right / weights.sum(-1)


def weighted_auc(predictions: Predictions, weights: Array) -> Array:
    """
    Return the area under the ROC curve for each weighting of the texts.

    The share of pairs of a positive and a negative text that the score orders
    rightly, ties counting half; (weightings, texts) -> (weightings,).
    """
    order = np.argsort(predictions.scores, kind="stable")
    ascending = predictions.scores[order]
    starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
    labels = predictions.labels[order]
    sorted_weights = weights[:, order]
    # Weight of each distinct score, (weightings, scores).
    positive = np.add.reduceat(sorted_weights * labels, starts, axis=1)
    negative = np.add.reduceat(sorted_weights * ~labels, starts, axis=1)
    below = negative.cumsum(1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    return (positive * below).sum(1) / pairs


STATISTICS = {"test_accuracy": weighted_accuracy, "test_auc": weighted_auc}


def mean_scores(
    by_dataset: Mapping[str, Predictions], *, seed: int
) -> dict[str, Interval]:
    """
    Return accuracy and AUC, averaged over the sets, with 95 % intervals.

    Percentile bootstrap over the test texts within each set; the sets and the
    probes are kept fixed.
    """
    draws = {name: np.zeros(N_RESAMPLES) for name in STATISTICS}
    values = dict.fromkeys(STATISTICS, 0.0)
    for dataset, predictions in by_dataset.items():
        n = len(predictions.labels)
        # Sets of one size must not share their draws.
        own_seed = np.random.SeedSequence([seed, *dataset.encode()]).generate_state(1)
        start = 0
        for weights in resampled_weights(
            n, resamples=N_RESAMPLES, seed=int(own_seed[0])
        ):
            stop = start + len(weights)
            for name, statistic in STATISTICS.items():
                draws[name][start:stop] += statistic(predictions, weights)
            start = stop
        for name, statistic in STATISTICS.items():
            values[name] += float(statistic(predictions, np.ones((1, n)))[0])
    sets, texts = len(by_dataset), sum(len(p.labels) for p in by_dataset.values())
    return {
        name: percentile_interval(values[name] / sets, draws[name] / sets, texts)
        for name in STATISTICS
    }


@dataclass(frozen=True)
class Measured:
    """Deduplicated scores and overlap, in total and by data set."""

    deduplicated: DeduplicatedMetrics
    overlap: OverlapMetrics
    by_dataset: Mapping[str, Mapping[str, Any]]


def measure(
    sae: SAE[Any],
    options: SaeProbesOptions,
    cache: ArtifactFolder,
    baselines: ArtifactFolder,
    *,
    seed: int,
) -> Measured:
    """
    Probe the SAE on splits by text, and count upstream's overlap.

    Args:
        sae: with its decoder norms folded, as upstream scores it.
        cache: folder of the activations (``ensure_activations``).
        baselines: folder in which predictions from the model's own activations,
            which no SAE changes, are kept between runs.
    """
    llm: dict[str, Predictions] = {}
    latents: dict[int, dict[str, Predictions]] = {k: {} for k in options.ks}
    by_dataset: dict[str, dict[str, Any]] = {}
    for dataset in options.datasets:
        data = read_texts(dataset)
        activations = load_activations(cache, dataset)[: len(data.labels)]
        split = deduplicated_split(data.texts, data.labels, seed=seed)

        def make(
            path: Path,
            activations: Tensor = activations,
            labels: Rows = data.labels,
            split: Split = split,
        ) -> None:
            found = probe_activations(activations, labels, split, seed=seed)
            _write_predictions(path, found)

        # read back even if just made, so that every run sees the same numbers
        llm[dataset] = _read_predictions(
            baselines.ensure(f"{dataset}_deduplicated.json", make)
        )
        probes = probe_latents(
            encode(sae, activations),
            data.labels,
            split,
            ks=options.ks,
            penalty=options.reg_type,
            seed=seed,
        )
        for k, predictions in probes.items():
            latents[k][dataset] = predictions
        by_dataset[dataset] = {
            **_counts(data, split, seed=seed),
            "deduplicated_llm": _scores(llm[dataset]),
            "deduplicated_by_k": {k: _scores(p) for k, p in probes.items()},
        }
    probes_by_name = {"llm": llm} | {f"sae_top_{k}": p for k, p in latents.items()}
    return Measured(
        deduplicated=_deduplicated(probes_by_name, seed=seed),
        overlap=_overlap(by_dataset),
        by_dataset=by_dataset,
    )


def _counts(data: Texts, split: Split, *, seed: int) -> dict[str, Any]:
    by_row = upstream_split(data.labels, seed=seed)
    return {
        "test_rows_in_train": rows_in_train(data.texts, by_row) / len(by_row.test),
        "n_test_rows": len(by_row.test),
        "n_distinct_texts": len(distinct_rows(data.texts, data.labels)),
        "n_train_texts": len(split.train),
        "n_test_texts": len(split.test),
    }


def _scores(predictions: Predictions) -> dict[str, float]:
    ones = np.ones((1, len(predictions.labels)))
    return {
        name: float(statistic(predictions, ones)[0])
        for name, statistic in STATISTICS.items()
    }


def _deduplicated(
    probes: Mapping[str, Mapping[str, Predictions]], *, seed: int
) -> DeduplicatedMetrics:
    figures: dict[str, Interval | None] = {
        f"{probe}_{score}": estimate
        for probe, by_dataset in probes.items()
        for score, estimate in mean_scores(by_dataset, seed=seed).items()
    }
    return DeduplicatedMetrics(**flat(figures))


def _overlap(by_dataset: Mapping[str, Mapping[str, Any]]) -> OverlapMetrics:
    shares = np.array([d["test_rows_in_train"] for d in by_dataset.values()])
    rows = np.array([d["n_test_rows"] for d in by_dataset.values()])
    return OverlapMetrics(
        test_rows_in_train=float(shares @ rows / rows.sum()),
        test_rows_in_train_n=int(rows.sum()),
        mean_test_rows_in_train=float(shares.mean()),
        mean_test_rows_in_train_n=len(shares),
    )


def _write_predictions(path: Path, predictions: Predictions) -> None:
    fields = predictions._asdict()
    write_json(path, {name: values.tolist() for name, values in fields.items()})


def _read_predictions(path: Path) -> Predictions:
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Predictions(
        labels=np.array(fields["labels"], dtype=np.bool_),
        predicted=np.array(fields["predicted"], dtype=np.bool_),
        scores=np.array(fields["scores"], dtype=np.float64),
    )


def require_whole(
    measured: SparseProbingSaeProbesEvalOutput,
    subject: Subject,
    chosen: SaeProbesOptions,
) -> None:
    """
    Refuse a result that lacks a set or a k, which upstream leaves null.

    Raises:
        UpstreamError: names what is missing.
    """
    found = {detail.dataset_name: detail for detail in measured.eval_result_details}
    lacking = [name for name in chosen.datasets if name not in found]
    for name, detail in found.items():
        if set(detail.sae_metrics_by_k or ()) != set(chosen.ks):
            lacking.append(f"some k of {name}")
        if detail.llm_test_auc is None:
            lacking.append(f"the baseline of {name}")
    if lacking:
        raise UpstreamError(
            f"{EVAL} of SAE {subject.sae_id!r} left a result without {', '.join(lacking[:5])}."
        )


def corrected(
    measured: SparseProbingSaeProbesEvalOutput,
    ours: Measured,
    subject: Subject,
    sae: SAE[Any],
) -> CorrectedSaeProbesOutput:
    """Return upstream's output under the SAE's true ids, with our categories."""
    config = dataclasses.replace(  # pyright: ignore[reportArgumentType]
        measured.eval_config,
        # upstream's defaults instead of folders of this machine
        results_path=SparseProbingSaeProbesEvalConfig.results_path,
        model_cache_path=None,
    )
    categories = measured.eval_result_metrics
    return CorrectedSaeProbesOutput(
        **base_fields(subject, sae),
        eval_config=config,
        eval_result_metrics=CorrectedSaeProbesCategories(
            llm=categories.llm,
            sae=categories.sae,
            deduplicated=ours.deduplicated,
            overlap=ours.overlap,
        ),
        eval_result_details=[
            SaeProbesDetail(
                **dataclasses.asdict(detail),  # pyright: ignore[reportArgumentType]
                **ours.by_dataset[detail.dataset_name],
            )
            for detail in measured.eval_result_details
        ],
        sae_metrics_by_k=measured.sae_metrics_by_k,
        # sae-probes ships the published sets, whatever `data` says
        eval_result_unstructured=unstructured(subject, data="hub"),
    )
