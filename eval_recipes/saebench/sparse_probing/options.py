"""Settings of sparse probing, and the checks that need no weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils import dataset_info

from eval_recipes.labelled import probing
from eval_recipes.running.context import RunContext

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


def known_sets(data: str) -> tuple[str, ...]:
    """Return the names of the sets that can be probed on."""
    if data == "embedded":
        return tuple(probing.probing_sets())
    return tuple(SparseProbingEvalConfig().dataset_names)


def held_gib(options: SparseProbingOptions, context: RunContext, d_in: int) -> float:
    """Return the memory that the activations of the largest chosen data set take."""
    classes = {**dataset_info.chosen_classes_per_dataset, **probing.probing_sets()}
    n_classes = max(len(classes[name]) for name in options.dataset_names)
    n_train, n_test = (
        size or 0
        for size in (options.probe_train_set_size, options.probe_test_set_size)
    )
    # Upstream joins the batches of a class while it still holds them.
    texts = n_classes * (n_train + n_test) // 2 + max(n_train, n_test) // 2
    width = {"float64": 8, "float32": 4}.get(context.dtype, 2)
    return texts * options.context_length * d_in * width / 2**30
