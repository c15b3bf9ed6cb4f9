"""Sources of activations by their settings, as a sweep's YAML has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from saereg_plugin.activations.rows import Rows
from saereg_plugin.checks import MAX_SEED, checked_dataclass, folder_or_name
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources.inputs.opening import EMBEDDED as DATA
from saereg_plugin.sources.modules import EMBEDDED as MODULES


@dataclass(frozen=True)
class SourceFacts:
    """
    What is known of a source before its model runs.

    Attributes:
        model: name of the model.
        data: name of its inputs.
        points: d_in by point, patterns resolved.
        n_inputs: number of inputs; None without end.
        rows_per_input: rows of each; None if inputs differ.
        ordered: see ``ActivationSource``.
        most_rows: rows of all inputs, or an upper bound; None without end.
        parameters: of the model.
        rows_available: see ``ActivationSource``.
        cached_kind: kind of the source that a cache holds.
    """

    model: str
    data: str
    points: Mapping[str, int]
    n_inputs: int | None = None
    rows_per_input: int | None = None
    ordered: bool = False
    most_rows: int | None = None
    parameters: int = 0
    rows_available: int | None = None
    cached_kind: str | None = None


_Name = Annotated[
    str, AfterValidator(lambda name: folder_or_name(name, {*MODULES, *DATA}))
]


@checked_dataclass
class ModuleConfig:
    """A module by name on data by name."""

    kind: Literal["module"] = "module"
    model: _Name
    """Embedded model, transformers name or folder of a vision or audio model, or ``timm:NAME``."""
    point: str | Sequence[str]
    """Name of a submodule, several, or a pattern such as ``encoder.layer.*``."""
    data: _Name | Sequence[_Name]
    """Embedded data, or a folder of images or audio; several are read one after the other."""
    rows: Rows = "all"
    """Rows of an output: all, cls, patches, mean, or frames."""
    image_size: Annotated[int, Field(ge=1)] | None = None
    """Height and width of images, instead of the model's own."""
    inputs_per_pass: Annotated[int, Field(ge=1)] = 16
    """Inputs in one forward pass."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Seed of the order in which inputs are trained on."""


def kind_of(given: Mapping[str, Any], known: Sequence[str]) -> str:
    """
    Return the kind of a source.

    Raises:
        InputError: if it has none, or an unknown one.
    """
    kind = str(given.get("kind"))
    if kind not in known:
        hint = suggest(kind, known)
        if kind == "language_model":
            hint = "A language model is described by a sweep's fields model, hook_name and corpus."
        raise InputError(
            f"source: kind is {kind!r}; expected {', '.join(map(repr, known))}. {hint}"
        )
    return kind
