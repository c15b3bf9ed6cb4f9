"""Configuration of a sweep: a grid of SAEs, each with several seeds."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saereg_plugin.checks import (
    MAX_SEED,
    require_field_types,
    require_name,
    require_plain,
    whole_number,
)
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources import corpora
from saereg_plugin.yaml_text import read_yaml

MAX_SAES = 4096
"""SAEs of one sweep, which are all in memory at once."""
MAX_COUNT = 10**13
"""Largest count of tokens or steps."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """
    Groups of SAEs that are trained together on one stream of activations.

    Every group (configuration) is trained once per seed. Lengths are in tokens or
    optimiser steps as named.
    """

    hook_name: str
    """TransformerLens hook point."""
    sae: Mapping[str, Any]
    """Fields that all SAEs share: ``architecture``, ``d_sae``, ``k``, ..."""
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"sae": {}})
    """Fields of each group, by the group's name; they replace those of ``sae``."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Fields whose values are combined with every group, for example ``k: [16, 32]``."""
    seeds: Sequence[int] = (0, 1, 2)
    """Seeds of the initial weights."""
    model: str = "smollm2-135m-instruct"
    """Official TransformerLens name, local Hugging Face folder, or embedded model."""
    corpus: str = corpora.EMBEDDED
    """Hub or local ``datasets`` path, or ``embedded``."""
    tokens: int = 1_000_000
    """Training tokens; special tokens are not counted if they are excluded."""
    batch_size: int = 2048
    """Tokens in one optimiser step."""
    context_size: int = 128
    """Tokens in one context of the language model."""
    prompts_per_pass: int = 32
    """Contexts in one pass of the language model."""
    buffer_tokens: int = 65_536
    """Activations held for shuffling."""
    mixing_fraction: float = 0.5
    """Share of the buffer kept back when it is refilled; 0 serves tokens in order."""
    exclude_special_tokens: bool = True
    """Leave out special tokens: position 0 alone can hold over a third of the variance."""
    prepend_bos: bool = True
    """Begin each context with the BOS token."""
    disable_concat_sequences: bool = False
    """Take each context from one document (shorter ones are dropped) instead of filling it
    with several."""
    llm_dtype: str = "auto"
    """Data type of the language model; "auto" is bfloat16 where the hardware has it, else
    float32. A folder records what it became, and a resumed run keeps to that."""
    autocast: bool = False
    """Train the SAEs with bfloat16 products."""
    lr: float = 3e-4
    """Adam's learning rate."""
    lr_warm_up_steps: int = 0
    """Steps of linear warm-up of the learning rate."""
    lr_decay_fraction: float = 0.2
    """Last share of the steps over which the learning rate falls to 0."""
    dead_feature_window: int = 1000
    """Steps without firing after which SAELens calls a latent dead."""
    device: str = "cpu"
    """Device of the SAEs and the language model."""
    seed: int = 0
    """Seed of the order of activations."""
    log_every: int = 25
    """Steps between training records."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    matched_to: Mapping[str, str] = field(default_factory=dict)
    """Of groups that are as wide as another group's alive latents: that group, as
    "release/group" (``matched_sweep`` fills it in)."""

    def __post_init__(self) -> None:
        require_field_types(self)
        self._require_containers()
        self._require_seeds()
        self._require_few()
        for name in (
            "tokens",
            "batch_size",
            "context_size",
            "prompts_per_pass",
            "buffer_tokens",
            "dead_feature_window",
            "log_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; expected at least 1.")
            if getattr(self, name) > MAX_COUNT:
                raise InputError(
                    f"{name}={getattr(self, name)}; expected at most {MAX_COUNT:.0e}."
                )
        if not 0 <= self.lr_warm_up_steps <= MAX_COUNT:
            raise InputError(
                f"lr_warm_up_steps={self.lr_warm_up_steps}; expected 0 or more."
            )
        if self.tokens < self.batch_size:
            raise InputError(
                f"tokens={self.tokens} is less than one batch of {self.batch_size}; nothing would be trained."
            )
        if self.buffer_tokens < self.batch_size:
            raise InputError(
                f"buffer_tokens={self.buffer_tokens} is less than one batch of {self.batch_size}."
            )
        if not 0 <= self.mixing_fraction < 1:
            raise InputError(
                f"mixing_fraction={self.mixing_fraction}; expected at least 0 and below 1."
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr={self.lr}; expected a finite number above 0.")
        if not 0 <= self.lr_decay_fraction < 1:
            raise InputError(
                f"lr_decay_fraction={self.lr_decay_fraction}; expected at least 0 and below 1."
            )

    def _require_containers(self) -> None:
        """Refuse what YAML can bring instead of a list or a mapping."""
        if not isinstance(self.seeds, Sequence) or isinstance(self.seeds, str | bytes):
            raise InputError(f"seeds={self.seeds!r}; expected a list.")
        for name in ("sae", "groups", "grid", "matched_to"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"{name}={getattr(self, name)!r}; expected a mapping.")
        # a group without fields is None in YAML
        groups = {name: fields or {} for name, fields in self.groups.items()}
        object.__setattr__(self, "groups", groups)
        for name, fields in groups.items():
            if not isinstance(fields, Mapping):
                raise InputError(
                    f"Group {name!r} is {fields!r}; expected a mapping of fields."
                )
            _require_group_name(name)
        for key, values in self.grid.items():
            if isinstance(values, str | bytes) or not isinstance(values, Sequence):
                raise InputError(
                    f"grid: {key!r} is {values!r}; expected a list of values."
                )
            if not values or any(isinstance(value, list | Mapping) for value in values):
                raise InputError(
                    f"grid: {key!r} is {values!r}; expected at least one value, and each a "
                    "number or text. Lists and mappings go into groups."
                )
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, str | Mapping):
                require_plain(item.name, value)

    def _require_seeds(self) -> None:
        """Refuse seeds that are not whole, too large, or occur twice; rounds nothing."""
        seeds: list[int] = []
        for given in self.seeds:
            seed = whole_number(given)
            if seed is None or not 0 <= seed <= MAX_SEED:
                raise InputError(
                    f"seeds has {given!r}; expected whole numbers from 0 to 2^32 - 1. "
                    "Choose others."
                )
            seeds.append(seed)
        if len(set(seeds)) != len(seeds) or not seeds:
            raise InputError(
                f"seeds are {seeds}; expected different seeds, at least one."
            )
        settled = seeds if isinstance(self.seeds, list) else tuple(seeds)
        object.__setattr__(self, "seeds", settled)
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(
                f"seed={self.seed}; expected 0 to 2^32 - 1. Choose another."
            )

    def _require_few(self) -> None:
        """Refuse a grid of no SAE, or of more than can be trained side by side."""
        if not self.groups:
            raise InputError("groups is empty; expected at least one group of SAEs.")
        points = math.prod(len(values) for values in self.grid.values())
        count = len(self.groups) * points * len(self.seeds)
        if count > MAX_SAES:
            raise InputError(
                f"The sweep has {count:,} SAEs ({len(self.groups)} groups, {points:,} points of "
                f"the grid, {len(self.seeds)} seeds); expected at most {MAX_SAES:,}, as all are "
                "in memory at once. Make several sweeps of it."
            )

    @property
    def steps(self) -> int:
        """Optimiser steps of each SAE."""
        return self.tokens // self.batch_size

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        values = dataclasses.asdict(self)
        # Folders of earlier versions do not have these, and go on.
        for name in ("matched_to", "disable_concat_sequences"):
            if not values[name]:
                del values[name]
        return values


def read_sweep(path: Path) -> SweepConfig:
    """
    Read a sweep from a YAML file.

    Raises:
        InputError: if it cannot be read or has unknown or missing fields.
    """
    return sweep_from(read_yaml(path), source=str(path))


def sweep_from(values: Any, *, source: str) -> SweepConfig:
    """Make a sweep from a dictionary; ``source`` is named in errors."""
    if not isinstance(values, Mapping):
        raise InputError(
            f"{source}: expected a mapping of fields, got {type(values).__name__}."
        )
    fields = {field.name: field for field in dataclasses.fields(SweepConfig)}
    for key in values:
        if key not in fields:
            raise InputError(
                f"{source}: unknown field {key!r}. {suggest(str(key), fields)}"
            )
    for key in ("hook_name", "sae"):
        if key not in values:
            raise InputError(f"{source}: the field {key!r} is missing.")
    return SweepConfig(**values)


def group_fields(sweep: SweepConfig) -> dict[str, dict[str, Any]]:
    """
    Return the fields of every group, grid points included, by the name of the group.

    Raises:
        InputError: for a name that cannot be part of a file's, or that occurs twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for group, overrides in sweep.groups.items():
        for combination in itertools.product(*sweep.grid.values()):
            point = dict(zip(sweep.grid, combination))
            name = "-".join(
                [group, *(f"{key}{_short(value)}" for key, value in point.items())]
            )
            _require_group_name(name)
            if name in found:
                raise InputError(
                    f"Group {name!r} occurs twice; expected different values in the grid."
                )
            found[name] = {**sweep.sae, **overrides, **point}
    return found


def sae_ids(sweep: SweepConfig) -> list[str]:
    """Return the ids of all SAEs, group by group; see ``group_fields``."""
    return [
        sae_id(group, seed) for group in group_fields(sweep) for seed in sweep.seeds
    ]


def sae_id(group: str, seed: int) -> str:
    """Return the id of one SAE, in which nothing but letters, digits and "_.+-" occurs."""
    return f"{group}-seed{seed}"


def _require_group_name(name: object) -> None:
    """Refuse a group's name that cannot be part of a file's."""
    if re.fullmatch(r"[\w.+-]*\w[\w.+-]*", require_name("Group name", name)) is None:
        raise InputError(
            f"Group name {name!r} becomes part of file names; expected letters, digits, "
            "'_', '.', '+' and '-'."
        )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
