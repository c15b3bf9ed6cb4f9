"""Settings of the recipe ``sparse_probing``, and what it refuses before anything is loaded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils import dataset_info
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.labelled import probing
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import options_of
from eval_recipes.saebench.sparse_probing.output import K_VALUES
from eval_recipes.saebench.upstream import has_heads, require_dataset
from saereg_plugin.errors import InputError, suggest

EVAL = "sparse_probing"

SIZES = {"hub": (4000, 1000), "embedded": (400, 200)}
"""Train and test sizes: as published, and what every embedded set and a CPU can serve."""


@dataclass(frozen=True)
class SparseProbingOptions:
    """Settings, ``RunContext.options["sparse_probing"]``."""

    dataset_names: tuple[str, ...] = ()
    """Sets to probe on; none for all: SAEBench's eight, or the eight embedded ones."""

    probe_train_set_size: int | None = None
    """Train texts of a probe, half of them of its class; None: 4000, embedded 400."""

    probe_test_set_size: int | None = None
    """Test texts of a probe; None: 1000, embedded 200."""

    context_length: int = 128
    """Tokens of a text that the model reads; the rest is cut off."""

    k_values: tuple[int, ...] = (1, 2, 5)
    """How many latents a probe may use: some of 1, 2, 5, 10, 20, 50, 100."""

    llm_batch_size: int = 32
    """Texts in one pass of the language model (upstream: by model, 32 to 512)."""

    sae_batch_size: int = 125
    """Texts an SAE encodes at a time at most; fewer where memory asks for it."""

    random_baseline: bool = True
    """Whether to score a random dictionary too; it costs as much as a second SAE."""


def checked_options(context: RunContext) -> SparseProbingOptions:
    """
    Return the settings with nothing left open.

    Raises:
        InputError: for an unknown name or a value that cannot work.
    """
    options = options_of(EVAL, SparseProbingOptions, context.options.get(EVAL, {}))
    n_train, n_test = SIZES[context.data]
    options = dataclasses.replace(
        options,
        dataset_names=_strings(options.dataset_names) or _all_names(context.data),
        k_values=_ks(options.k_values),
        probe_train_set_size=_given(options.probe_train_set_size, n_train),
        probe_test_set_size=_given(options.probe_test_set_size, n_test),
    )
    for name in (
        "probe_train_set_size",
        "probe_test_set_size",
        "context_length",
        "llm_batch_size",
        "sae_batch_size",
    ):
        value = getattr(options, name)
        # Below ten, a fifth of the train texts may be none.
        least = 10 if name.endswith("set_size") else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(
                f"Option {name!r} of {EVAL} is {value!r}; expected an integer of {least} "
                "or more."
            )
    known = _all_names(context.data)
    for name in options.dataset_names:
        if name not in known:
            raise InputError(
                f"Unknown data set {name!r} for {EVAL} with data {context.data!r}. "
                f"{suggest(name, known)}"
            )
    return options


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _all_names(data: str) -> tuple[str, ...]:
    if data == "embedded":
        return tuple(probing.probing_sets())
    return tuple(SparseProbingEvalConfig().dataset_names)


def _strings(values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not all(
        isinstance(value, str) for value in values
    ):
        raise InputError(
            f"Option 'dataset_names' of {EVAL} is {values!r}; expected a list of names."
        )
    return tuple(dict.fromkeys(values))


def _ks(values: Any) -> tuple[int, ...]:
    chosen = tuple(dict.fromkeys(values)) if isinstance(values, Iterable) else ()
    if not chosen or not set(chosen) <= set(K_VALUES):
        raise InputError(
            f"Option 'k_values' of {EVAL} is {values!r}; expected some of "
            f"{', '.join(map(str, K_VALUES))}, for which upstream's results have a place."
        )
    return chosen


def require_subjects(context: RunContext, options: SparseProbingOptions) -> None:
    """
    Refuse SAEs that the evaluation cannot serve.

    Raises:
        InputError: names the SAE and what is wrong with it.
    """
    for subject in context.subjects:
        cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
        metadata = cfg.get("metadata", cfg)
        hook = str(metadata.get("hook_name"))
        head = metadata.get("hook_head_index")
        if head is not None or has_heads(hook) or not re.search(r"\d", hook):
            raise InputError(
                f"SAE {subject.sae_id!r} reads {hook!r}, which {EVAL} cannot serve; expected "
                "a hook of one layer without heads, such as 'blocks.4.hook_resid_post'."
            )
        if (d_sae := int(cfg["d_sae"])) < max(options.k_values):
            raise InputError(
                f"SAE {subject.sae_id!r} has {d_sae} latents, fewer than the largest k, "
                f"{max(options.k_values)}. Leave that k out of 'k_values'."
            )
        needed = held_gib(options, context, int(cfg["d_in"]))
        if needed > context.memory_gib:
            raise InputError(
                f"{EVAL} holds {needed:.1f} GiB of activations of one data set for SAE "
                f"{subject.sae_id!r}, more than the {context.memory_gib:g} GiB allowed. Allow "
                "more memory, or choose a smaller 'probe_train_set_size' or 'context_length'."
            )


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
