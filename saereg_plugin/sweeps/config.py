"""What a sweep trains: a grid of configurations, each with several seeds."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saereg_plugin import corpora
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.yaml_text import read_yaml


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
        self._require_types()
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise InputError(
                f"seeds are {list(self.seeds)}; expected different seeds, at least one."
            )
        if not self.groups:
            raise InputError("groups is empty; expected at least one group of SAEs.")
        for name in (
            "tokens",
            "batch_size",
            "context_size",
            "prompts_per_pass",
            "dead_feature_window",
            "log_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; expected at least 1.")
        if self.lr_warm_up_steps < 0:
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

    def _require_types(self) -> None:
        """Refuse what YAML can bring instead of a number, a list or a mapping."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and isinstance(value, float) and value.is_integer():
                # 1e6 is a float in YAML
                object.__setattr__(self, item.name, int(value))
            elif item.type == "int" and not isinstance(value, int):
                raise InputError(f"{item.name}={value!r}; expected a whole number.")
            elif item.type == "float" and not isinstance(value, int | float):
                raise InputError(f"{item.name}={value!r}; expected a number.")
        if isinstance(self.seeds, str) or not isinstance(self.seeds, Sequence):
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
        for key, values in self.grid.items():
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise InputError(
                    f"grid: {key!r} is {values!r}; expected a list of values."
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
        if re.fullmatch(r"[\w.+-]*\w[\w.+-]*", group) is None:
            raise InputError(
                f"Group name {group!r} becomes part of file names; expected letters, digits, "
                "'_', '.', '+' and '-'."
            )
        for combination in itertools.product(*sweep.grid.values()):
            point = dict(zip(sweep.grid, combination))
            name = "-".join(
                [group, *(f"{key}{_short(value)}" for key, value in point.items())]
            )
            if name in found:
                raise InputError(
                    f"Group {name!r} occurs twice; expected different values in the grid."
                )
            found[name] = {**sweep.sae, **overrides, **point}
    return found


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
