"""Settings of SCR and TPP, and the differences between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from sae_bench.evals.base_eval_output import BaseEvalOutput
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig

from eval_recipes.running.activation_source import Source
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.scr_tpp.ablation_step import AblationStep, Array, Sampled
from eval_recipes.saebench.scr_tpp.output import PUBLISHED_N
from eval_recipes.saebench.upstream import upstream_model_name

Pair = tuple[str, str]
Runs = list[tuple[str, Pair | None]]
"""Data sets, for SCR with a pair of values of the attribute to keep, in upstream's order."""

Columns = dict[str, Array]
"""Figures by name: their values, or their bootstrap resamples."""


@dataclass(frozen=True)
class ScrAndTppOptions:
    """Settings, ``RunContext.options["scr"]`` and ``["tpp"]``."""

    dataset_names: tuple[str, ...] = ()
    """Data sets; none for SAEBench's two, or with embedded data the recipe's two."""

    train_set_size: int | None = None
    """Texts a probe is trained on; None: 4000 as published, embedded 480."""

    test_set_size: int | None = None
    """Texts a probe is tested on; None: 1000 as published, embedded 180."""

    n_values: tuple[int, ...] = PUBLISHED_N
    """How many latents are ablated; some of the published ones."""

    context_length: int = 128
    """Tokens of a text that the model reads; the rest is cut off."""

    probe_epochs: int = 20
    """Epochs of a probe's training, of which the best on the test texts is kept."""

    sae_batch_size: int = 125
    """Texts an SAE encodes at a time at most; fewer where memory asks for it."""

    fast_ablation: bool = True
    """
    Whether texts are encoded once an SAE instead of once for each class and number of
    latents; only where the model runs in float32, else upstream's own loop is run.
    """

    n_resamples: int = 1000
    """Bootstrap resamples of the test texts."""


SIZES = {"hub": (4000, 1000), "embedded": (480, 180)}
"""Train and test sizes: as published, and what every embedded set and a CPU can serve."""


class _Measure(Protocol):
    def __call__(
        self, step: AblationStep, /, *, resamples: int, seed: int
    ) -> dict[str, Sampled]: ...


@dataclass(frozen=True)
class Kind:
    """In what SCR and TPP differ."""

    eval: str
    embedded_sets: Callable[[], tuple[str, ...]]
    default_embedded: tuple[str, ...]
    hub_sets: Callable[[], Mapping[str, str]]
    """Upstream's data set names, and the hub repository of each."""
    check_sizes: Callable[[str, int, int], None]
    """Refuses sizes that an embedded set cannot serve."""
    texts: Callable[[str, int], int]
    """Texts of a data set in memory for a train or test size."""
    runs: Callable[[ScrAndTppEvalConfig], Runs]
    measure: _Measure
    upstream_output: type[Any]
    output: Callable[
        [Any, dict[str, Sampled], dict[str, Any]], BaseEvalOutput[Any, Any, Any]
    ]


def sampled(value: Columns, draws: Columns, texts: int) -> dict[str, Sampled]:
    """Join figures and their resamples by name."""
    return {
        name: Sampled(float(value[name]), np.asarray(draws[name]), texts)
        for name in value
    }


def eval_config(
    kind: Kind,
    context: RunContext,
    options: ScrAndTppOptions,
    source: Source,
    *,
    sae_batch_size: int,
) -> ScrAndTppEvalConfig:
    """Return upstream's configuration; ``options`` must be checked."""
    config = ScrAndTppEvalConfig(
        random_seed=context.seed,
        dataset_names=list(options.dataset_names),
        perform_scr=kind.eval == "scr",
        train_set_size=options.train_set_size or 0,
        test_set_size=options.test_set_size or 0,
        context_length=options.context_length,
        probe_epochs=options.probe_epochs,
        # As published: the probe is never stopped early.
        early_stopping_patience=options.probe_epochs,
        sae_batch_size=sae_batch_size,
        llm_batch_size=context.batch_size_prompts,
        llm_dtype=context.dtype,
        model_name=upstream_model_name(source.model_name),
        n_values=list(options.n_values),
    )
    if context.data == "embedded":
        config.column1_vals_lookup = embedded_pairs()
    return config


def embedded_pairs() -> dict[str, list[Pair]]:
    """Return what upstream calls ``column1_vals_lookup``, for the embedded crossed sets."""
    from eval_recipes.labelled.crossed import crossed_sets

    return {name: [crossed.column1_vals] for name, crossed in crossed_sets().items()}
