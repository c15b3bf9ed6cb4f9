"""Configurations of regularisers and mechanics, and their form in JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

from sae_lens import TrainingSAEConfig

from saereg_plugin.checks import is_finite, require_choice, require_field_types
from saereg_plugin.component import Component
from saereg_plugin.errors import InputError, suggest

if TYPE_CHECKING:
    from saereg_plugin.registry import Table
    from saereg_plugin.sources.embeddings import AnchorVocabulary

T = TypeVar("T")
C = TypeVar("C", bound="ComponentConfig")

Anneal = Literal["none", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """
    Warm-up from 0, then constant, or annealed to a final value.

    All lengths are in optimiser steps, because an SAE does not know the length of its run.
    At step ``t`` (the number of completed steps):

    - ``t < warm_up_steps``: ``coefficient * t / warm_up_steps``;
    - then ``coefficient`` until ``anneal_start``;
    - then, over ``anneal_steps`` steps, with progress ``p`` from 0 to 1,
      linear: ``coefficient + (final - coefficient) * p``,
      cosine: ``final + (coefficient - final) * (1 + cos(pi p)) / 2``;
    - then ``final_coefficient``.
    """

    warm_up_steps: int = 0
    """Steps of the linear rise from 0."""
    anneal: Anneal = "none"
    """Shape of the way to ``final_coefficient``."""
    anneal_start: int = 0
    """First step of the annealing; not before the end of the warm-up."""
    anneal_steps: int = 0
    """Length of the annealing."""
    final_coefficient: float = 0.0
    """Value at the end of the annealing and after it."""

    def __post_init__(self) -> None:
        require_field_types(self)
        require_choice("anneal", self.anneal, get_args(Anneal))
        if self.warm_up_steps < 0 or self.anneal_start < 0 or self.anneal_steps < 0:
            raise InputError(
                f"A schedule counts steps from 0, got warm_up_steps={self.warm_up_steps}, "
                f"anneal_start={self.anneal_start}, anneal_steps={self.anneal_steps}. "
                "Give lengths that are 0 or more."
            )
        if not math.isfinite(self.final_coefficient) or self.final_coefficient < 0:
            raise InputError(
                f"final_coefficient is {self.final_coefficient}; expected a finite number, 0 or more."
            )
        if self.anneal == "none" and self.final_coefficient != 0:
            raise InputError(
                f"final_coefficient is {self.final_coefficient}, but anneal is 'none', so the coefficient "
                "never gets there. Set anneal to 'linear' or 'cosine' and anneal_steps."
            )
        if self.anneal != "none" and self.anneal_steps == 0:
            raise InputError(
                f"anneal={self.anneal!r} needs anneal_steps of at least 1, got 0."
            )
        if self.anneal != "none" and self.anneal_start < self.warm_up_steps:
            raise InputError(
                f"anneal_start={self.anneal_start} lies in the warm-up of "
                f"{self.warm_up_steps} steps; start the annealing at its end or later."
            )

    def value(self, coefficient: float, step: int) -> float:
        """Return the coefficient after ``step`` completed steps."""
        if step < self.warm_up_steps:
            return coefficient * step / self.warm_up_steps
        if self.anneal == "none" or step < self.anneal_start:
            return coefficient
        progress = min(1.0, (step - self.anneal_start) / self.anneal_steps)
        if self.anneal == "linear":
            return coefficient + (self.final_coefficient - coefficient) * progress
        share_left = (1 + math.cos(math.pi * progress)) / 2
        return (
            self.final_coefficient + (coefficient - self.final_coefficient) * share_left
        )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """
    Settings of a run that are known before its language model is loaded.

    Attributes:
        sae: configuration of the SAE that the regulariser or mechanic belongs to.
        others: configurations of the SAEs that are trained side by side with it. In a sweep
            they are the other seeds of its group.
        model_name: the language model.
        model_class_name: SAELens' name of the class that loads the model.
        context_size: tokens of a context.
        batch_size: tokens of a training batch.
        mixing_fraction: share of the activation buffer kept back for shuffling; 0 serves
            tokens in order.
        prepend_bos, exclude_special_tokens, seqpos_slice: as in SAELens' runner
            configurations.
        source_kind: kind of the source of activations.
        ordered: whether rows are neighbours in time, as tokens are.
    """

    sae: TrainingSAEConfig
    others: Sequence[TrainingSAEConfig] = ()
    model_name: str
    model_class_name: str = "HookedTransformer"
    context_size: int
    batch_size: int
    mixing_fraction: float
    prepend_bos: bool = True
    exclude_special_tokens: bool | list[int] = False
    seqpos_slice: tuple[int | None, ...] = (None,)
    source_kind: str = "language_model"
    ordered: bool = True


_CHECK = "check"
"""Key of a field's check in its metadata: a function of configuration, name and value."""


def checked(default: T, holds: Callable[[Any], bool], expected: str) -> T:
    """
    Make a field of a configuration whose values are checked.

    Args:
        default: the default; if it is None, None is accepted.
        holds: whether a value can be used.
        expected: what a value should be, for the error.
    """

    def check(config: ComponentConfig, name: str, value: Any) -> None:
        config.require(name, holds(value), expected)

    return field(default=default, metadata={_CHECK: check})


def number(default: T, holds: Callable[[float], bool], expected: str) -> T:
    """Make a field that takes finite numbers for which ``holds``; see ``checked``."""
    return checked(default, lambda value: is_finite(value) and holds(value), expected)


def count(default: T, *, least: int = 1) -> T:
    """Make a field that takes integers of at least ``least``; see ``checked``."""

    def holds(value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and value >= least

    return checked(default, holds, f"a whole number, {least} or more")


def choice(default: T, kind: Any) -> T:
    """
    Make a field that takes the values of ``kind``, a ``Literal``.

    Raises:
        InputError: if ``kind`` is no ``Literal``, or the default none of its values.
    """
    allowed = get_args(kind)
    if not allowed or default is not None and default not in allowed:
        raise InputError(
            f"choice({default!r}, {kind!r}): expected a typing.Literal that has the default, such as "
            f"choice({default!r}, Literal[{default!r}, 'other'])."
        )

    def check(config: ComponentConfig, name: str, value: Any) -> None:
        require_choice(f"{config.name}: {name}", value, get_args(kind))

    return field(default=default, metadata={_CHECK: check})


@dataclass(frozen=True, kw_only=True)
class ComponentConfig:
    """Configuration of a regulariser or mechanic: frozen, comparable, and plain in JSON."""

    name: ClassVar[str]
    _kind: ClassVar[str]
    _example: ClassVar[str]

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, check = getattr(self, each.name), each.metadata.get(_CHECK)
            if check is not None and not (value is None and each.default is None):
                check(self, each.name, value)

    def check(self, sae_cfg: Any) -> None:
        """
        Refuse an SAE configuration that this configuration cannot act on.

        Raises:
            InputError: with the reason and what to change.
        """

    def check_run(self, settings: RunSettings) -> None:
        """
        Refuse a run that this configuration cannot act in, before the model is loaded.

        Raises:
            InputError: with the reason and what to change.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON with ``name`` first."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def require(self, field: str, holds: bool, expected: str) -> None:
        """Refuse the value of a field unless ``holds``."""
        if not holds:
            raise InputError(
                f"{self.name}: {field} is {getattr(self, field)!r}; expected {expected}."
            )


@dataclass(frozen=True, kw_only=True)
class RegularizerConfig(ComponentConfig):
    """
    Configuration of one regulariser.

    A subclass adds its fields and implements ``build``; ``register_regularizer`` names it.

    Args:
        coefficient: weight of the penalty, finite and 0 or more.
        schedule: change of the coefficient over steps.
        label: name in the logs; None takes ``name`` (numbered if it occurs twice).
    """

    _kind = "regulariser"
    _example = '{"name": "weight_penalty", "coefficient": 1e-5}'

    needs_all_pre_activations: ClassVar[bool] = True
    """Whether it reads the activations of latents that were not selected. False lets TopK
    kinds take a sparse step, in which ``Step.hidden_pre`` is empty and ``Step.active`` has
    the selected latents."""
    needs_token_order: ClassVar[bool] = False
    """Whether it compares neighbouring rows of a batch as neighbouring tokens. A sweep then
    counts the pairs of tokens that lie in two documents."""

    coefficient: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    label: str | None = checked(
        None,
        lambda v: isinstance(v, str) and v.isidentifier(),
        "letters, digits and underscores",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.schedule, Mapping):
            object.__setattr__(self, "schedule", fields_from(Schedule, self.schedule))
        self.require(
            "schedule", isinstance(self.schedule, Schedule), "a mapping of its fields"
        )
        # here, since a subclass may give another default
        self.require(
            "coefficient",
            is_finite(self.coefficient) and self.coefficient >= 0,
            "a finite number, 0 or more",
        )

    @property
    def selection_multiple(self) -> int:
        """How many times k latents a sparse step of TopK selects for it, see ``Step.wider``."""
        return 1

    def build(self, sae_cfg: Any, *, label: str, seed: int) -> Component:
        """Make the module for an SAE with the configuration ``sae_cfg``."""
        raise NotImplementedError(f"{type(self).__name__} must implement build().")

    def anchor_vocabulary(self, metadata: Any) -> AnchorVocabulary | None:
        """
        Return the token embeddings to which decoder rows are pulled; None for no pull.

        A sweep writes the nearest token of each latent into its release.

        Args:
            metadata: of the SAE.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class MechanicConfig(ComponentConfig):
    """
    Configuration of one training mechanic.

    A subclass adds its fields and implements ``build``; ``register_mechanic`` names it.
    """

    _kind = "mechanic"
    _example = '{"name": "gradient_clipping", "max_norm": 0.1}'

    order: ClassVar[int] = 0
    """Mechanics act in the order of this number; see ``build_components``."""

    weight_copies: ClassVar[int] = 0
    """Copies of all weights that the mechanic keeps, for the estimates of memory and disk."""

    def build(self, sae_cfg: Any, *, seed: int) -> Component:
        """Make the module, labelled ``name``, for an SAE with the configuration ``sae_cfg``."""
        raise NotImplementedError(f"{type(self).__name__} must implement build().")


def config_from(
    value: ComponentConfig | Mapping[str, Any] | str,
    base: type[C],
    known: Table[type[C]],
) -> C:
    """
    Return the configuration that ``value`` describes.

    Args:
        value: fields with ``name``, or those as JSON text. A configuration is returned as
            it is and need not be registered.
        base: ``RegularizerConfig`` or ``MechanicConfig``.
        known: configuration classes by name.

    Raises:
        InputError: if the text is no JSON object, or names an unknown class or field.
    """
    if isinstance(value, base):
        return value
    kind = base._kind
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{kind.capitalize()} {value!r} is not JSON ({error}); expected for example "
                f"'{base._example}'."
            ) from error
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError(
            f"{kind.capitalize()} {value!r} has no name; expected for example {base._example}."
        )
    name: str = value["name"]
    if name not in known:
        raise InputError(f"Unknown {kind} {name!r}. {known.suggest(name)}")
    fields = {key: item for key, item in value.items() if key != "name"}
    return fields_from(known[name], fields, called=f"{kind.capitalize()} {name!r}")


def fields_from(
    cls: type[T], values: Mapping[str, Any], *, called: str | None = None
) -> T:
    """
    Return ``cls(**values)``; errors call it by its class or by what is given.

    Raises:
        InputError: if a key is no field of the dataclass ``cls`` (names the nearest), a
            field without a default is missing, or one is not of its type.
    """
    known = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in known]
    for key in values:
        if key not in names:
            raise InputError(
                f"{called or cls.__name__} has no field {key!r}. {suggest(str(key), names)}"
            )
    for each in known:
        required = (each.default, each.default_factory) == (
            dataclasses.MISSING,
            dataclasses.MISSING,
        )
        if required and each.name not in values:
            raise InputError(f"{cls.__name__} needs the field {each.name!r}.")
    made = cls(**values)
    require_field_types(made)
    return made
