"""Configuration of a sweep: a grid of SAEs, each with several seeds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
)

from saereg_plugin.checks import (
    MAX_SEED,
    as_list,
    checked_dataclass,
    folder_or_name,
    is_finite,
    require_name,
    require_plain,
    whole_number,
)
from saereg_plugin.errors import InputError, brief
from saereg_plugin.machine import AUTO
from saereg_plugin.sources import corpora, models
from saereg_plugin.yaml_text import read_yaml

LANGUAGE_MODEL = "language_model"
"""Kind of the source that ``model``, ``hook_name`` and ``corpus`` describe."""
MAX_SAES = 4096
"""SAEs of one sweep, which are all in memory at once."""
MAX_COUNT = 10**13
"""Largest count of tokens or steps."""
SCHEMA = Path(__file__).with_name("sweep.schema.json")
"""JSON schema of a YAML file with the fields of ``SweepConfig``."""


def _whole(value: object) -> object:
    number = whole_number(value)
    return value if number is None else number


def _number(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check a number as a float; an integer stays one, as it was written."""
    plain = isinstance(value, int | float) or not is_finite(value)
    checked = check(value if plain else float(value))
    return value if isinstance(value, int) else checked


def _switch(value: object) -> object:
    if isinstance(value, bool) or value == AUTO:
        return value
    raise InputError(
        f"autocast={brief(value)}; expected true, false or 'auto'. Correct it, or leave it out."
    )


def _hooks(value: object) -> object:
    texts = value if isinstance(value, list | tuple) else [value]
    if texts and all(isinstance(text, str) for text in texts):
        return value
    raise InputError(
        f"hook_name={brief(value)}; expected text, or a list of texts. Correct it, or leave it out."
    )


def absolute_folder(name: str) -> str:
    """Return the absolute path of a folder; another name, an embedded one too, as it is."""
    return folder_or_name(name, {corpora.EMBEDDED, *models.EMBEDDED})


def _source(value: object) -> object:
    """Return a source's settings, or None for a language model, whose settings are a sweep's."""
    if not isinstance(value, Mapping):
        return value
    settings = cast(Mapping[str, Any], value)
    if settings.get("kind", LANGUAGE_MODEL) != LANGUAGE_MODEL:
        return settings
    for name in settings:
        if name != "kind":
            raise InputError(
                f"source: unknown field {name!r} of the kind {LANGUAGE_MODEL!r}; expected none. Its model, "
                "hooks and text are the sweep's fields model, hook_name and corpus. Sources with "
                "fields of their own have another kind: module, arrays or cache."
            )
    return None


def _place(name: str, info: ValidationInfo) -> str:
    """Return a folder's absolute path; the names that a source filled in stay as they are."""
    return name if info.data.get("source") else absolute_folder(name)


_WHOLE = BeforeValidator(_whole)
"""Annotates an int that may be written as a float without a fraction, such as 1e6."""
_NUMBER = WrapValidator(_number)
"""Annotates a float that may be written, and is then kept, as an int."""

Count = Annotated[int, Field(ge=1, le=MAX_COUNT), _WHOLE]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), _WHOLE]
Switch = Annotated[bool | Literal["auto"], BeforeValidator(_switch)]
Place = Annotated[str, AfterValidator(_place)]
Share = Annotated[float, Field(ge=0, lt=1), _NUMBER]
GroupFields = Annotated[
    Mapping[str, Any],
    # a group without fields is None in YAML
    BeforeValidator(lambda fields: fields or {}),
    WithJsonSchema({"type": ["object", "null"]}),
]


@checked_dataclass
class SweepConfig:
    """
    Groups of SAEs that are trained together on one stream of activations.

    Every group (configuration) is trained once per seed. Lengths are in tokens or
    optimiser steps as named.
    """

    hook_name: Annotated[str | Sequence[str], BeforeValidator(_hooks)] = (
        "blocks.2.hook_resid_post"
    )
    """TransformerLens hook point, several, or a pattern such as ``blocks.*.hook_resid_post``. Every
    group is trained on each of several, unless it names its own ``hook_name``."""
    source: Annotated[
        Mapping[str, Any] | None,
        BeforeValidator(_source),
        WithJsonSchema({"type": ["object", "null"]}),
    ] = None
    """Source of the activations: ``kind`` and its fields. By default it is a language model, by
    ``model``, ``hook_name`` and ``corpus``; a source of another kind fills in these three."""
    sae: Annotated[Mapping[str, Any], WithJsonSchema({"type": "object"})]
    """Fields that all SAEs share: ``architecture``, ``d_sae``, ``k``, ..."""
    groups: Annotated[Mapping[str, GroupFields], Field(min_length=1)] = field(
        default_factory=lambda: {"sae": {}}
    )
    """Fields of each group, by the group's name; they replace the fields of ``sae``."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Fields whose values are combined with every group, for example ``k: [16, 32]``."""
    seeds: Annotated[Sequence[Seed], Field(min_length=1)] = (0, 1, 2)
    """Seeds of the initial weights, each different."""
    model: Place = "smollm2-135m-instruct"
    """Official TransformerLens name, local Hugging Face folder, or embedded model. The path of a
    folder is made absolute, so that the SAEs can be used from everywhere."""
    corpus: Place = corpora.EMBEDDED
    """Hub or local ``datasets`` path, or ``embedded``; a folder's path is made absolute."""
    tokens: Count = 1_000_000
    """Training tokens; special tokens are not counted if they are excluded."""
    batch_size: Count = 2048
    """Tokens in one optimiser step."""
    context_size: Count = 128
    """Tokens in one context of the language model."""
    prompts_per_pass: Count = 32
    """Contexts in one pass of the language model."""
    buffer_tokens: Count = 65_536
    """Activations held for shuffling."""
    mixing_fraction: Share = 0.5
    """Share of the buffer kept back when it is refilled; 0 serves tokens in order."""
    exclude_special_tokens: bool = True
    """Leave out special tokens: position 0 alone can hold over a third of the variance."""
    prepend_bos: bool = True
    """Begin each context with the BOS token."""
    disable_concat_sequences: bool = False
    """Take each context from one document, and drop shorter documents, instead of filling
    it with several."""
    text_tokens: Annotated[int, Field(ge=0, le=MAX_COUNT), _WHOLE] = 0
    """Training tokens of the text after which it is read anew, from its beginning; 0 reads on."""
    llm_dtype: str = AUTO
    """Data type of the language model; "auto" is bfloat16 where the hardware has it, else
    float32. The folder records the choice, and a resumed run keeps it."""
    autocast: Switch = AUTO
    """Train the SAEs with bfloat16 products; "auto" does where the hardware has them. The
    folder records the choice, and a resumed run keeps it."""
    lr: Annotated[float, Field(gt=0), _NUMBER] = 3e-4
    """Adam's learning rate."""
    lr_warm_up_steps: Annotated[int, Field(ge=0, le=MAX_COUNT), _WHOLE] = 0
    """Steps of linear warm-up of the learning rate."""
    lr_decay_fraction: Share = 0.2
    """Last share of the steps over which the learning rate falls to 0."""
    dead_feature_window: Count = 1000
    """Steps without firing after which SAELens calls a latent dead."""
    device: str = AUTO
    """Device of the SAEs and the language model; "auto" is CUDA, else MPS, else the CPU. The
    folder records the choice, and a resumed run keeps it."""
    seed: Seed = 0
    """Seed of the order of activations."""
    log_every: Count = 25
    """Steps between training records."""
    checkpoint_every: Count = 250
    """Steps between checkpoints."""
    matched_to: Mapping[str, str] = field(default_factory=dict)
    """For each width-matched control, its regularised group as "release/group";
    ``matched_sweep`` fills it in."""
    finetune: Mapping[str, Any] = field(default_factory=dict)
    """What a release was fine-tuned from, and its loss; ``finetune`` fills it in, and ``train`` refuses it."""
    started_from: Mapping[str, str] = field(default_factory=dict)
    """For each group, the group whose trained SAEs it starts from, as "release/group@" with the hash
    of the manifest and settings; ``saereg-bench revive``, ``pool`` and ``distill`` fill it in."""

    @field_validator("*")
    @classmethod
    def _is_plain(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str | Mapping):
            require_plain(str(info.field_name), value)
        return value

    @field_validator("groups")
    @classmethod
    def _groups_have_names(cls, groups: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in groups:
            _require_group_name(name)
        return groups

    @field_validator("grid")
    @classmethod
    def _grid_holds_values(
        cls, grid: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, Sequence[Any]]:
        for key, values in grid.items():
            if isinstance(values, str | bytes):
                raise InputError(
                    f"grid: {key!r} is {values!r}; expected a list of values."
                )
            if not values or any(isinstance(value, list | Mapping) for value in values):
                raise InputError(
                    f"grid: {key!r} is {values!r}; expected at least one value, and each a "
                    "number or text. Lists and mappings go into groups."
                )
        return grid

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: Sequence[int]) -> Sequence[int]:
        if len(set(seeds)) != len(seeds):
            raise InputError(f"seeds are {seeds}; expected different seeds.")
        return seeds

    def __post_init__(self) -> None:
        """Refuse batches without tokens, and more SAEs than can be trained side by side."""
        if self.tokens < self.batch_size:
            raise InputError(
                f"tokens={self.tokens} is less than one batch of {self.batch_size}; nothing would be trained."
            )
        if self.text_tokens and self.source:
            raise InputError(
                f"text_tokens={self.text_tokens}: a source of another kind than a language model has no "
                "text, and reads its inputs again by itself. Leave it out."
            )
        if self.buffer_tokens < self.batch_size:
            raise InputError(
                f"buffer_tokens={self.buffer_tokens} is less than one batch of {self.batch_size}."
            )
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
        # folders of earlier versions do not have these, and can be resumed
        for name in (
            "matched_to",
            "finetune",
            "started_from",
            "disable_concat_sequences",
            "text_tokens",
            "source",
        ):
            if not values[name]:
                del values[name]
        return values


def schema_text() -> str:
    """Return the text of ``SCHEMA``, for editors of YAML files."""
    schema = TypeAdapter(SweepConfig).json_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def read_sweep(path: Path) -> SweepConfig:
    """
    Read a sweep from a YAML file.

    Raises:
        InputError: if it cannot be read, or a field is unknown, missing or unusable.
    """
    return sweep_from(read_yaml(path), source=str(path))


def sweep_from(values: Any, *, source: str) -> SweepConfig:
    """Make a sweep from a dictionary; ``source`` begins the messages of errors."""
    if not isinstance(values, Mapping):
        raise InputError(
            f"{source}: expected a mapping of fields, got {type(values).__name__}."
        )
    fields = {str(key): value for key, value in values.items()}
    try:
        return SweepConfig(**fields | _with_points(fields))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _with_points(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source of arrays whose points are the given hooks, if it names none itself."""
    source, hooks = fields.get("source"), fields.get("hook_name")
    if not isinstance(source, Mapping) or not hooks:
        return {}
    named = cast(Mapping[str, Any], source)
    if named.get("kind") not in ("arrays", "cache") or named.get("point") is not None:
        return {}
    return {"source": {**named, "point": hooks}}


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
            fields = {**sweep.sae, **overrides, **point}
            for name, own in _on_each_hook(sweep, name, fields):
                _require_group_name(name)
                if name in found:
                    raise InputError(
                        f"Group {name!r} occurs twice; expected different values in the grid."
                    )
                found[name] = own
    return found


def _on_each_hook(
    sweep: SweepConfig, name: str, fields: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and fields of a group on each hook of a sweep, or on its own hook alone."""
    hooks = listed_hooks(sweep)
    if "hook_name" in fields or len(hooks) == 1:
        yield name, fields
        return
    for hook in hooks:
        yield f"{name}-{hook}", {**fields, "hook_name": hook}


def listed_hooks(sweep: SweepConfig) -> list[str]:
    """Return the hooks of a sweep, or their patterns."""
    return as_list(sweep.hook_name)


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
