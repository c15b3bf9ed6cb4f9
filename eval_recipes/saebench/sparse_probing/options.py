"""Settings of sparse probing, and the checks that need no weights."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils import dataset_info

from eval_recipes.labelled import probing
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.upstream import require_dataset
from saereg_plugin.errors import InputError, suggest

EVAL = "sparse_probing"

SIZES = {"hub": (4000, 1000), "embedded": (400, 200)}
"""Train and test sizes: as published, and what every embedded set and a CPU can serve."""


@dataclass(frozen=True)
class SparseProbingOptions:
    """Settings, ``RunContext.options["sparse_probing"]``."""

    dataset_names: tuple[str, ...] = ()
    """Sets to probe on; none for all: SAEBench's eight, or the eight embedded ones."""

    # below ten, a fifth of the train texts may be none
    probe_train_set_size: int | None = Field(default=None, ge=10)
    """Train texts of a probe, half of them of its class; None: 4000, embedded 400."""

    probe_test_set_size: int | None = Field(default=None, ge=10)
    """Test texts of a probe; None: 1000, embedded 200."""

    context_length: int = Field(default=128, ge=1)
    """Tokens of a text that the model reads; the rest is cut off."""

    k_values: tuple[Literal[1, 2, 5, 10, 20, 50, 100], ...] = Field(
        default=(1, 2, 5), min_length=1
    )
    """How many latents a probe may use; upstream's results have a place for these."""

    llm_batch_size: int = Field(default=32, ge=1)
    """Texts in one pass of the language model (upstream: by model, 32 to 512)."""

    sae_batch_size: int = Field(default=125, ge=1)
    """Texts an SAE encodes at a time at most; fewer where memory asks for it."""

    random_baseline: bool = True
    """Whether to score a random dictionary as well; it costs as much as a second SAE."""


def resolved(data: str, options: SparseProbingOptions) -> SparseProbingOptions:
    """
    Return the settings with nothing left open, each set and each k once.

    Raises:
        InputError: for an unknown set.
    """
    n_train, n_test = SIZES[data]
    known = known_sets(data)
    for name in options.dataset_names:
        if name not in known:
            raise InputError(
                f"Unknown data set {name!r} for {EVAL} with data {data!r}. "
                f"{suggest(name, known)}"
            )
    return dataclasses.replace(
        options,
        dataset_names=tuple(dict.fromkeys(options.dataset_names)) or known,
        k_values=tuple(dict.fromkeys(options.k_values)),
        probe_train_set_size=options.probe_train_set_size or n_train,
        probe_test_set_size=options.probe_test_set_size or n_test,
    )


def known_sets(data: str) -> tuple[str, ...]:
    """Return the names of the sets that can be probed on."""
    if data == "embedded":
        return tuple(probing.probing_sets())
    return tuple(SparseProbingEvalConfig().dataset_names)


def held_gib(options: SparseProbingOptions, context: RunContext, d_in: int) -> float:
    """Return the memory that the activations of the largest chosen data set take."""
    classes = {**dataset_info.chosen_classes_per_dataset, **probing.probing_sets()}
    n_classes = max(len(classes[name]) for name in options.dataset_names)
    n_train, n_test = options.probe_train_set_size, options.probe_test_set_size
    assert n_train is not None
    assert n_test is not None
    # Upstream joins the batches of a class while it still holds them.
    texts = n_classes * (n_train + n_test) // 2 + max(n_train, n_test) // 2
    width = {"float64": 8, "float32": 4}.get(context.dtype, 2)
    return texts * options.context_length * d_in * width / 2**30


def require_data(context: RunContext, options: SparseProbingOptions) -> None:
    """
    Refuse sizes that an embedded set cannot serve, and hub sets that cannot be had.

    Raises:
        InputError: names the set.
    """
    assert options.probe_train_set_size is not None
    assert options.probe_test_set_size is not None
    for name in options.dataset_names:
        if context.data == "embedded":
            probing.check_sizes(
                name, options.probe_train_set_size, options.probe_test_set_size
            )
        else:
            require_dataset(name.split("_class_set")[0].split("_sentiment")[0])
