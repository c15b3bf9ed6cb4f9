"""Caches of the activations that sweeps read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from saereg_plugin.activations.cache import CacheIndex, write_cache
from saereg_plugin.activations.opening import open_source
from saereg_plugin.activations.source import ActivationSource, InputSource
from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Split
from saereg_plugin.sweeps.checkpoint import settled
from saereg_plugin.sweeps.config import LANGUAGE_MODEL, SweepConfig, sweep_from
from saereg_plugin.sweeps.source import (
    kind_of_source,
    open_sweep_source,
    source_fields,
    source_settings,
    with_source,
)
from saereg_plugin.yaml_text import read_yaml

_RUN = ("model", "corpus", "llm_dtype", "device")
"""Flags that are fields of SweepConfig."""


def sweep_of_source(
    flags: Mapping[str, Any], given: Collection[str], *, config: Path | None = None
) -> SweepConfig:
    """
    Return a sweep for the sake of its source; its SAEs are left out without a file.

    Args:
        flags: values by the flags' names, defaults included; None counts as not given.
        given: names of the flags that the user gave. The others hold only without a file.
        config: YAML file with the fields of SweepConfig.

    Raises:
        InputError: if flags exclude one another, or a value or file cannot be used.
    """
    fields = {} if config is None else read_yaml(config)
    if not isinstance(fields, Mapping):
        return sweep_from(fields, source=str(config))
    holding = flags if config is None else given
    used = {n: flags[n] for n in flags if n in holding and flags[n] is not None}
    own = {name: used[name] for name in _RUN if name in used}
    values = {"sae": {}, **fields, **own, **source_fields(used, fields.get("source"))}
    return sweep_from(values, source="the flags" if config is None else str(config))


def cache_sweep(
    sweep: SweepConfig,
    folder: Path | str,
    *,
    tokens: int | None = None,
    split: Split = "train",
    dtype: str | None = None,
) -> CacheIndex:
    """
    Write the activations that a sweep reads to a folder; see ``write_cache``.

    Args:
        sweep: a sweep; of its SAEs only their hooks matter.
        folder: of the cache: new, empty, or of an earlier call.
        tokens: rows that SAEs can be trained on from the cache. Those of the shuffling buffer
            are added. By default all inputs of a finite source are written, and of a text as
            many tokens as the sweep has.
        split: part of the data; a text has only "train".
        dtype: data type to round activations to; by default they are stored as they are.

    Returns:
        the index of what is written; after Ctrl-C it is not finished.

    Raises:
        InputError: see ``write_cache`` and ``with_source``.
    """
    sweep = settled(sweep, None)
    if tokens is not None:
        sweep = replace(sweep, tokens=tokens)
    source = _open(sweep, split)
    everything = tokens is None and isinstance(source, InputSource)
    # at most so many are read, whatever the batch size
    rows = None if everything else sweep.tokens + sweep.buffer_tokens
    return write_cache(source, folder, rows=rows, split=split, dtype=dtype)


def _open(sweep: SweepConfig, split: Split) -> ActivationSource:
    """Open the source of a sweep; its SAEs need not be complete."""
    if kind_of_source(sweep) != LANGUAGE_MODEL:
        settings = source_settings(sweep)
        return open_source(
            settings, split=split, device=sweep.device, dtype=sweep.llm_dtype
        )
    if split != "train":
        raise InputError(
            f"split={split!r}: evaluations take the held-out part of a text themselves; expected "
            "'train' for a language model."
        )
    sweep, facts = with_source(sweep)
    pairs = not sweep.exclude_special_tokens
    return open_sweep_source(sweep, facts, count_pairs=pairs)
