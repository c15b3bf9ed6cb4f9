"""The fields that every regularised architecture adds to SAELens' own configuration."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast, get_args

from sae_lens import JumpReLUTrainingSAEConfig, SAEConfig, TrainingSAEConfig
from simple_parsing.helpers import field
from torch import nn
from typing_extensions import override

from saereg_plugin.checks import require_choice, require_field_types
from saereg_plugin.config import (
    ComponentConfig,
    MechanicConfig,
    RegularizerConfig,
    RunSettings,
    config_from,
)
from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.auxk import AuxKScaling
from saereg_plugin.mechanics.initialization import (
    BDecInit,
    EncoderScale,
    Initialization,
)
from saereg_plugin.registry import MECHANICS, REGULARIZERS, Table

DecoderConstraint = Literal["none", "unit_norm"]

SparseStep = Literal["auto", "screened", "always", "never"]
RESERVED_LABELS = (
    *("unit_norm", "norm_mask", "row_floor", "b_dec_init", "overall_loss"),
    *("mse_loss", "l1_loss", "l0_loss", "pre_act_loss"),
    "auxiliary_reconstruction_loss",
)
"""Names in the logs and in the state dict that a regulariser may not take."""

_LEAST_WIDTH_PER_K = 16
_LEAST_WIDTH_PER_K_AUTOCAST = 40
"""d_sae / k from which a sparse step is the faster one (docs: speed). Under autocast a dense
product is cheaper, so that later."""
_Base = TrainingSAEConfig if TYPE_CHECKING else object

C = TypeVar("C", bound=ComponentConfig)


def _auto_field(parse: Callable[[str], Any]) -> Any:
    """Return a field that is ``"auto"`` by default; its text may be auto, none or a value."""

    def parse_value(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        if text.lower() in ("auto", "none"):
            return None if text.lower() == "none" else "auto"
        return parse(text)

    return field(default="auto", type=parse_value)


def _parse_bool(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise InputError(f"Expected true, false or auto, got {text!r}.")


def _list_field(base: type[C], known: Table[type[C]]) -> Any:
    """Return a field for a list of configurations, each a JSON object on the command line."""

    def parse(text: Any) -> C:
        try:
            return config_from(text, base, known)
        except InputError as error:
            # argparse shows the text of this error class only
            raise argparse.ArgumentTypeError(str(error)) from error

    return field(default_factory=list, type=parse, nargs="*")


def _configs(name: str, values: Any, base: type[C], known: Table[type[C]]) -> list[C]:
    if not isinstance(values, list | tuple):
        raise InputError(
            f"{name} is {values!r}; expected a list, each entry a mapping with a 'name'."
        )
    return [config_from(value, base, known) for value in values]


@dataclass(kw_only=True)
class RegularizedConfigMixin(_Base):
    """
    Fields of a regularised architecture, next to SAELens' own.

    Args:
        regularizers: any number of regulariser configurations (or their dictionaries,
            or JSON on the command line); their penalties add up.
        mechanics: training mechanics, given like the regularisers; each at most once.
            Their order in the list means nothing.
        decoder_constraint: "unit_norm" keeps the decoder's rows at norm 1 in training
            and in the saved SAE.
        initialization: "tied" starts as SAELens does, with the encoder the transpose of
            the decoder; "untied" draws both independently (Kaiming uniform).
        encoder_scale: "unit_reconstructions" scales the encoder at the start so that
            reconstructions of inputs of norm 1 have norm 1; "as_drawn" leaves it.
        b_dec_init: decoder bias at the start: zero, or the mean or geometric median of
            the first batch.
        init_seed: seed of the initial weights. None draws as SAELens does; s gives the
            weights of SAELens' class built after ``torch.manual_seed(s)``.
        max_norm_multiple: leave out activations with a norm above this multiple of the
            running median; None keeps all.
        decoder_init_norm: norm of the decoder's rows at the start. "auto" is 1.0 with
            unit norm, None (as drawn) if untied, else SAELens' default.
    """

    regularizers: list[Any] = _list_field(RegularizerConfig, REGULARIZERS)
    mechanics: list[Any] = _list_field(MechanicConfig, MECHANICS)
    decoder_constraint: DecoderConstraint = "none"
    initialization: Initialization = "tied"
    encoder_scale: EncoderScale = "as_drawn"
    b_dec_init: BDecInit = "zero"
    init_seed: int | None = None
    max_norm_multiple: float | None = None
    decoder_init_norm: float | None = _auto_field(float)

    inference_config: ClassVar[type[SAEConfig]]
    """SAELens' inference configuration under which the SAE is saved."""

    @override
    @classmethod
    def architecture(cls) -> str:
        # a mixin: the next class is SAELens' own
        return f"regularized_{cast(Any, super()).architecture()}"

    @override
    def __post_init__(self) -> None:
        self.regularizers = _configs(
            "regularizers", self.regularizers, RegularizerConfig, REGULARIZERS
        )
        self.mechanics = _configs(
            "mechanics", self.mechanics, MechanicConfig, MECHANICS
        )
        for name, choices in (
            ("decoder_constraint", get_args(DecoderConstraint)),
            ("initialization", get_args(Initialization)),
            ("encoder_scale", get_args(EncoderScale)),
            ("b_dec_init", get_args(BDecInit)),
        ):
            require_choice(name, getattr(self, name), choices)
        self._resolve_decoder_init_norm()
        self._resolve_rescaling()
        require_field_types(self)
        super().__post_init__()
        self.validate()

    @property
    def unit_norm(self) -> bool:
        """Whether the decoder's rows have norm 1."""
        return self.decoder_constraint == "unit_norm"

    def labelled_regularizers(self) -> dict[str, RegularizerConfig]:
        """Return the regularisers by the unique names under which they are logged."""
        labelled: dict[str, RegularizerConfig] = {}
        for regularizer in self.regularizers:
            wanted = regularizer.label or regularizer.name
            label, number = wanted, 2
            while label in labelled:
                label, number = f"{wanted}_{number}", number + 1
            labelled[label] = regularizer
        return labelled

    def mechanic(self, name: str) -> MechanicConfig | None:
        """Return the mechanic of that name, if there is one."""
        return next((each for each in self.mechanics if each.name == name), None)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), **self._lists()}

    @override
    def get_training_architecture_details(self) -> dict[str, Any]:
        details = super().get_training_architecture_details()
        return {**details, **self._lists()}

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return self.inference_config

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        # SAELens collects the keys in a set: its order differs between processes
        found = super().get_inference_sae_cfg_dict()
        order = [item.name for item in dataclasses.fields(self.inference_config)]
        return {
            **{key: found[key] for key in order if key in found},
            **{key: value for key, value in found.items() if key not in order},
        }

    def _lists(self) -> dict[str, list[dict[str, Any]]]:
        return {
            "regularizers": [each.to_dict() for each in self.regularizers],
            "mechanics": [each.to_dict() for each in self.mechanics],
        }

    def _resolve_decoder_init_norm(self) -> None:
        if cast(Any, self.decoder_init_norm) == "auto":
            if self.unit_norm:
                self.decoder_init_norm = 1.0
            elif self.initialization == "untied":
                self.decoder_init_norm = None
            else:
                self.decoder_init_norm = TrainingSAEConfig.decoder_init_norm
        elif self.unit_norm and self.decoder_init_norm != 1.0:
            raise InputError(
                f"decoder_init_norm={self.decoder_init_norm} contradicts decoder_constraint='unit_norm', "
                "whose rows start and stay at norm 1. Leave it at 'auto'."
            )

    def _resolve_rescaling(self) -> None:
        if not hasattr(self, "rescale_acts_by_decoder_norm"):
            return
        rescale: Any = getattr(self, "rescale_acts_by_decoder_norm")
        if rescale == "auto":
            setattr(self, "rescale_acts_by_decoder_norm", not self.unit_norm)
        elif rescale and self.unit_norm:
            raise InputError(
                "rescale_acts_by_decoder_norm=True contradicts decoder_constraint='unit_norm': with rows "
                "of norm 1 it changes no activation, but lets gradients through the norms. "
                "Set it to 'auto' or False."
            )

    def validate(self) -> None:
        """
        Refuse values that cannot work together.

        Raises:
            InputError: naming the value, what was expected and what to do.
        """
        k = getattr(self, "k", None)
        if k is not None and not 0 < k <= self.d_sae:
            raise InputError(
                f"k={k} with d_sae={self.d_sae}; expected d_sae of at least 1 and k from 1 to d_sae."
            )
        if self.unit_norm and self.normalize_activations == "covariance_whitening":
            raise InputError(
                "decoder_constraint='unit_norm' cannot be kept with normalize_activations="
                "'covariance_whitening': undoing the whitening changes the norms of the decoder's rows. "
                "Use normalize_activations='expected_average_only_in', or decoder_constraint='none'."
            )
        self._check_encoder_scale()
        multiple = self.max_norm_multiple
        if multiple is not None and not (math.isfinite(multiple) and multiple > 1):
            raise InputError(
                f"max_norm_multiple={multiple}; expected a number above 1 (the paper uses 10), or None."
            )
        if self.init_seed is not None and self.init_seed < 0:
            raise InputError(
                f"init_seed={self.init_seed}; expected 0 or more, or None."
            )
        self._check_labels()
        for part in (*self.regularizers, *self.mechanics):
            part.check(self)

    def _check_encoder_scale(self) -> None:
        if self.encoder_scale == "as_drawn":
            return
        reason = None
        if isinstance(self, JumpReLUTrainingSAEConfig):
            reason = "whose thresholds do not scale with the encoder"
        elif self.normalize_activations == "layer_norm":
            reason = "with normalize_activations='layer_norm', which adds a mean to reconstructions"
        if reason is not None:
            raise InputError(
                f"encoder_scale={self.encoder_scale!r} on {self.architecture()}, {reason}; "
                "expected 'as_drawn'."
            )

    def _check_labels(self) -> None:
        names = [mechanic.name for mechanic in self.mechanics]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"The mechanic {name!r} is given {names.count(name)} times; expected once at most."
                )
        for label in self.labelled_regularizers():
            taken = label in RESERVED_LABELS or label in MECHANICS or label in names
            if taken or hasattr(nn.ModuleDict, label):
                raise InputError(
                    f"label={label!r} is taken by this package or SAELens; choose another name."
                )


def check_components(settings: RunSettings) -> None:
    """
    Let the regularisers and mechanics of ``settings.sae`` refuse a run.

    Raises:
        InputError: from the first that refuses it.
    """
    if isinstance(settings.sae, RegularizedConfigMixin):
        for part in (*settings.sae.regularizers, *settings.sae.mechanics):
            part.check_run(settings)


@dataclass(kw_only=True)
class RescaledConfigMixin(RegularizedConfigMixin):
    """
    Fields of architectures that have SAELens' ``rescale_acts_by_decoder_norm``.

    Args:
        rescale_acts_by_decoder_norm: "auto" is False with unit norm, else SAELens'
            default, True.
    """

    rescale_acts_by_decoder_norm: bool = _auto_field(_parse_bool)


@dataclass(kw_only=True)
class TopKFieldsMixin(RescaledConfigMixin):
    """
    Fields of the regularised TopK kinds; their class also takes ``SparseStepMixin``.

    Args:
        sparse_step: whether training computes only what selected latents need; the
            results are those of SAELens' dense step up to rounding. "auto" where it
            wins and nothing needs all pre-activations, "screened" and "always" (an error
            where it is impossible), "never" (bit for bit SAELens' step). "screened" rules
            out latents by a product in bfloat16 (``kernels.screening``), but not under
            autocast or with more than an eighth of all latents; "auto" does so where that
            is faster and "always" never does.
        auxk_scaling: how the auxiliary loss of dead latents is scaled before
            ``aux_loss_coefficient``: "sae_lens" (SAELens' own), "openai",
            "dictionary_learning" or "sparsify" (see ``mechanics.auxk``).
    """

    # a built-in type: SAELens' command-line parser resolves names in another module
    sparse_step: SparseStep = "auto"
    auxk_scaling: AuxKScaling = "sae_lens"

    @override
    def validate(self) -> None:
        super().validate()
        require_choice("sparse_step", self.sparse_step, get_args(SparseStep))
        require_choice("auxk_scaling", self.auxk_scaling, get_args(AuxKScaling))
        unknown = self.normalize_activations in ("constant_norm_rescale", "layer_norm")
        if unknown and self.auxk_scaling != "sae_lens":
            raise InputError(
                f"auxk_scaling={self.auxk_scaling!r} cannot be used with normalize_activations="
                f"{self.normalize_activations!r}, for which the auxiliary loss is not defined (SAELens "
                "refuses it, too). Use normalize_activations='expected_average_only_in'."
            )
        obstacle = self.sparse_step_obstacle()
        if self.sparse_step in ("screened", "always") and obstacle is not None:
            raise InputError(
                f"sparse_step={self.sparse_step!r} cannot be followed: {obstacle}. Use "
                "sparse_step='auto'."
            )

    def sparse_step_obstacle(self) -> str | None:
        """Return the field that makes a sparse step impossible, or None."""
        if self.normalize_activations in ("constant_norm_rescale", "layer_norm"):
            return f"normalize_activations={self.normalize_activations!r} acts inside the step"
        for label, regularizer in self.labelled_regularizers().items():
            if regularizer.needs_all_pre_activations:
                return (
                    f"the regulariser {label} needs the pre-activations of all latents"
                )
        if self.sparse_step == "screened" and self.dtype != "float32":
            return f"it compares float32 with bfloat16, and dtype is {self.dtype!r}"
        return None

    def sparse_step_wins(self, k: float, *, autocast: bool) -> bool:
        """Return whether a sparse step with k is faster at this d_sae."""
        least = _LEAST_WIDTH_PER_K_AUTOCAST if autocast else _LEAST_WIDTH_PER_K
        return self.d_sae >= least * k
