"""Metrics by the names people use, and which way is better."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Metric:
    """A metric of the tidy table: its evaluation, ``category/name``, and a short title."""

    eval: str
    metric: str
    title: str

    @property
    def key(self) -> tuple[str, str]:
        """Evaluation and metric, as a tidy table has them."""
        return self.eval, self.metric

    @property
    def name(self) -> str:
        """The last part of ``category/name``."""
        return self.metric.rsplit("/", 1)[-1]

    @property
    def full_name(self) -> str:
        """``eval/category/name``, which is unique."""
        return f"{self.eval}/{self.metric}"

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better; judged by the name."""
        if self.name.endswith("_score") and "absorption" not in self.name:
            return True
        lower = any(word in self.name for word in _LOWER_IS_BETTER)
        return self.name != "l0" and not lower


# Errors, divergences, losses, absorption, side effects and flaws.
_LOWER_IS_BETTER = (
    "absorption",
    "active_negatives",
    "bits",
    "break_even",
    "ce_loss",
    "collapsed",
    "dead",
    "dictionary",
    "died",
    "harmful",
    "in_train",
    "kl_div",
    "mse",
    "never_fired",
    "never_shared",
    "padding_",
    "seconds",
    "split_",
    "unintended",
    "unpaid",
    "unparseable",
)

_SCR = Metric("scr", "scr_metrics/scr_metric_threshold_10", "SCR@10")
_TPP = Metric("tpp", "tpp_metrics/tpp_threshold_10_total_metric", "TPP@10")

TABLE_COLUMNS = (
    Metric("sparse_probing", "sae/sae_top_1_test_accuracy", "SP"),
    _SCR,
    _TPP,
    Metric("core", "model_performance_preservation/ce_loss_score", "CE loss score"),
    Metric("cross_seed", "shared/shared", "shared"),
)
"""
Columns of ``saereg-bench table`` and metrics of its plots.

The weight-regularisation paper (arXiv 2603.04198) plots the first four against L0; sparse
probing is the accuracy of a probe on one latent, SAEBench's headline. The last is the share of
an SAE's latents that its group's other seeds have too.
"""

RUN_COLUMNS = (
    Metric("core", "corrected/explained_variance", "expl. var."),
    Metric("core", "corrected/l0", "L0"),
    Metric("core", "corrected/alive", "alive"),
    Metric("core", "model_performance_preservation/ce_loss_score", "CE score"),
    Metric("cross_seed", "shared/shared", "shared"),
    Metric("cross_seed", "similarity/mean_max_cos", "max cos"),
)
"""Columns of the first table after a run, in this order."""

OTHER_COLUMNS = (
    Metric("sparse_probing", "corrected/sae_top_1_accuracy", "SP"),
    Metric("sparse_probing", "corrected/random_top_1_accuracy", "SP random"),
    Metric(
        "sparse_probing_sae_probes",
        "deduplicated/sae_top_1_test_accuracy",
        "sae_probes",
    ),
    _SCR,
    _TPP,
    Metric("absorption_first_letter", "corrected/absorption_fraction", "absorption"),
    Metric("autointerp", "autointerp/autointerp_score", "autointerp"),
    Metric("autointerp", "token_explainer/balanced_accuracy", "tokens explain"),
    Metric("autointerp", "n2g/precision", "N2G precision"),
    Metric("autointerp", "n2g/recall", "N2G recall"),
    Metric("meta_structure_decoder_variance", "corrected/above_random", "meta"),
    Metric("vocabulary", "vocabulary/aligned_fraction", "aligned"),
    Metric("examples", "firing/never_fired", "never fired"),
    Metric("mdl", "code/bits", "bits"),
    Metric("mdl", "latents/unpaid", "unpaid"),
    Metric("attribution", "cores/core_90", "core 90 %"),
    Metric("attribution", "overlap/overlap", "core overlap"),
    Metric("death", "shares/dead_share", "dead"),
    Metric("death", "shares/born_dead", "born dead"),
    Metric("vision", "monosemanticity/judge_normalised", "mono"),
    Metric("vision", "purity/held_out", "purity"),
    Metric("steering", "chat/success", "steered, chat"),
    Metric("steering", "embedding/success", "embedding"),
    Metric("steering", "log_probability/success", "log prob."),
)
"""Columns of further tables after a run: one figure or two of each other evaluation."""

L0 = Metric("core", "sparsity/l0", "L0")
"""SAEBench's own L0, in its files and ours."""

_SHORT = {metric.title.lower(): metric for metric in (*TABLE_COLUMNS, L0)}


def metrics_of(frame: pd.DataFrame) -> list[Metric]:
    """Return every metric that a tidy table has a value of."""
    present = frame.loc[frame["value"].notna(), ["eval", "metric"]].drop_duplicates()
    pairs = present.itertuples(index=False, name=None)
    return [metric_of(*key) for key in pairs]


def metric_of(eval: str, metric: str) -> Metric:
    """Return a metric under the last part of its own name."""
    return Metric(eval, metric, metric.rsplit("/", 1)[-1])


_UNNAMED = 6
"""Metrics to show for a run without headlines; the summary has all."""

HEADLINE_DIFFERENCES = (
    "shared",
    "shared_alive",
    "mean_max_cos",
    "fraction_paired",
    "pw_mcc_absolute",
    "c_dec",
    "explained_variance",
    "explained_variance_with_bos",
    "l0",
    "alive",
)
"""Differences between groups to show; the result files have all."""


def headline_metrics(frame: pd.DataFrame) -> list[Metric]:
    """Return the headlines of a run that a frame has values of, or else its first metrics."""
    known = frame.loc[frame["value"].notna()]
    present = dict.fromkeys(zip(known["eval"], known["metric"], strict=True))
    columns = (*RUN_COLUMNS, *OTHER_COLUMNS)
    headlines = [metric for metric in columns if metric.key in present]
    every = dict.fromkeys(zip(frame["eval"], frame["metric"], strict=True))
    return headlines or [metric_of(*key) for key in list(every)[:_UNNAMED]]


def headline_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per SAE: group, seed, id, and a column per headline of a run."""
    metrics = {metric.key: metric.title for metric in headline_metrics(frame)}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in frame.to_dict("records"):
        title = metrics.get((row["eval"], row["metric"]))
        sae = (row["group"], row["seed"], row["release"], row["sae_id"])
        names = {"group": sae[0], "seed": sae[1], "sae_id": sae[3]}
        found = rows.setdefault(sae, names)
        if title is not None and not pd.isna(row["value"]):
            found.setdefault(title, row["value"])
    columns = pd.Index(["group", "seed", "sae_id", *metrics.values()])
    # as objects, a seed that is missing does not turn the others into floats
    return pd.DataFrame(list(rows.values()), columns=columns).astype({"seed": object})


def present_headlines(frame: pd.DataFrame) -> list[Metric]:
    """Return the headlines a tidy table has values of."""
    names = {metric.full_name for metric in metrics_of(frame)}
    return [metric for metric in TABLE_COLUMNS if metric.full_name in names]


def choose(frame: pd.DataFrame, names: Iterable[str]) -> list[Metric]:
    """
    Return metrics by name, in the order given; without names the headlines.

    A name is a title in ``TABLE_COLUMNS``, or the end of ``eval/category/name`` at a slash.

    Raises:
        InputError: for a name that no result has, with the nearest ones, or that means
            several metrics, with all of them; or if there is no headline to show.
    """
    wanted = list(names)
    if wanted:
        return list(dict.fromkeys(_find(frame, name) for name in wanted))
    found = present_headlines(frame)
    if not found:
        evals = ", ".join(sorted(set(frame["eval"]))) or "none"
        raise InputError(
            "The results hold none of the headline metrics "
            f"({', '.join(metric.title for metric in TABLE_COLUMNS)}); evaluations found: "
            f"{evals}. Name others with --metric."
        )
    return found


def _find(frame: pd.DataFrame, name: str) -> Metric:
    present = metrics_of(frame)
    short = _SHORT.get(name.lower())
    if short is not None:
        if any(metric.full_name == short.full_name for metric in present):
            return short
        raise InputError(
            f"Metric {name!r} is {short.full_name!r}, of which there is no result. "
            f"Run the evaluation {short.eval!r} into the same folder."
        )
    matching = [
        metric for metric in present if f"/{metric.full_name}".endswith(f"/{name}")
    ]
    if not matching:
        raise InputError(f"No result has a metric {name!r}. {_nearest(present, name)}")
    if len(matching) > 1:
        listed = ", ".join(repr(metric.full_name) for metric in matching)
        raise InputError(f"Metric {name!r} may be {listed}; name one of them.")
    return matching[0]


def _nearest(present: list[Metric], name: str) -> str:
    """Return a hint with up to five names, compared at the length the user wrote."""
    depth = name.count("/") + 1
    spelled: dict[str, list[str]] = {}
    for metric in present:
        end = "/".join(metric.full_name.split("/")[-depth:])
        spelled.setdefault(end.lower(), []).append(metric.full_name)
    near = difflib.get_close_matches(name.lower(), spelled, n=5, cutoff=0.5)
    listed = [full for end in near for full in spelled[end]][:5]
    if listed:
        return f"Nearest: {', '.join(repr(full) for full in listed)}."
    evals = sorted({metric.eval for metric in present})
    return f"The results are of {', '.join(evals) or 'no evaluation'}."
