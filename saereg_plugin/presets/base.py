"""Presets: a paper's SAE and run as fields, each with its source."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from sae_lens import TrainingSAEConfig

from saereg_plugin.checks import require_choice
from saereg_plugin.errors import InputError
from saereg_plugin.registry import training_classes

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Settings of the run, with the names and units of SweepConfig."""

    model: str | None = None
    """None where the paper's activations are not a language model's."""
    hook_name: str | None = None
    corpus: str | None = None
    tokens: int
    """Training samples: tokens, or images."""
    batch_size: int
    lr: float
    context_size: int = 128
    lr_warm_up_steps: int = 0
    lr_decay_fraction: float = 0.2
    dead_feature_window: int = 1000
    exclude_special_tokens: bool = True
    prepend_bos: bool = True
    buffer_tokens: int = 65_536
    mixing_fraction: float = 0.5
    disable_concat_sequences: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.tokens // self.batch_size


def open_run(model: str, hook_name: str) -> Run:
    """Return a run of which the paper states model and hook only."""
    return Run(
        model=model,
        hook_name=hook_name,
        corpus="monology/pile-uncopyrighted",
        tokens=50_000_000,
        batch_size=2048,
        lr=3e-4,
    )


NOT_STATED = "not stated"
_HOW_IT_RUNS = {
    # where and in what precision
    *("device", "dtype", "sparse_step", "use_sparse_activations"),
    # written by SAELens; shape of a hook; one of the run's seeds
    *("metadata", "reshape_activations", "init_seed"),
}
"""Fields of an SAE that are no part of a method."""
_NAMES_AND_PLACES = {"name", "label", "embeddings", "context_size"}
"""Fields of a regulariser or mechanic that are no part of a method."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """
    A paper's settings.

    Attributes:
        name: of the function that made it.
        paper: arXiv id.
        architecture: of the SAE.
        d_in: the paper's.
        d_sae: the paper's.
        run: what belongs to the run.
        make: from (d_in, d_sae) to the other fields of the SAE; coefficients depend on d_in.
        stated: fields that the paper states, as far as we have it; a setting inside a
            regulariser or mechanic is ``name.field``.
        chosen: every other field that can change what is learned, with the reason for its
            value; fields that are not given here are ``NOT_STATED``.
    """

    name: str
    paper: str
    architecture: str
    d_in: int
    d_sae: int
    run: Run
    stated: tuple[str, ...]
    chosen: Mapping[str, str]
    make: Callable[[int, int], Fields] = field(repr=False)

    def __post_init__(self) -> None:
        both = sorted(set(self.stated) & set(self.chosen))
        if both:
            raise InputError(
                f"Preset {self.name!r} lists {both} as stated and as chosen."
            )
        open_fields = [name for name in self.settings() if name not in self.stated]
        chosen = {**because(NOT_STATED, *open_fields), **self.chosen}
        object.__setattr__(self, "chosen", MappingProxyType(chosen))

    def settings(self) -> Fields:
        """
        Return every field that can change what is learned, at the paper's widths.

        A setting of a regulariser or mechanic is ``name.field``.
        """
        cfg: Any = self.sae()
        return {
            "architecture": self.architecture,
            **dataclasses.asdict(self.run),
            **{
                item.name: getattr(cfg, item.name)
                for item in dataclasses.fields(cfg)
                if item.name not in _HOW_IT_RUNS
            },
            **{
                f"{part.name}.{key}": value
                for part in (*cfg.regularizers, *cfg.mechanics)
                for key, value in part.to_dict().items()
                if key not in _NAMES_AND_PLACES
            },
        }

    def sae_fields(
        self, *, d_in: int | None = None, d_sae: int | None = None
    ) -> Fields:
        """Return the fields of the SAE as plain JSON, as ``SweepConfig.sae`` takes them."""
        d_in = self.d_in if d_in is None else d_in
        d_sae = self.d_sae if d_sae is None else d_sae
        return {
            "architecture": self.architecture,
            "d_sae": d_sae,
            **self.make(d_in, d_sae),
        }

    def sae(
        self, *, d_in: int | None = None, d_sae: int | None = None, **changes: Any
    ) -> TrainingSAEConfig:
        """
        Return the SAE's configuration, for SAELens' runners.

        Args:
            d_in: width of your activations; coefficients are converted for it.
            d_sae: latents.
            changes: any other field of the configuration; replaces the preset's.

        Raises:
            InputError: if the fields contradict one another.
        """
        values = self.sae_fields(d_in=d_in, d_sae=d_sae)
        _, config_class = training_classes(values.pop("architecture"))
        width = self.d_in if d_in is None else d_in
        given: dict[str, Any] = {"d_in": width, **values, **changes}
        known = {item.name for item in dataclasses.fields(config_class)}
        for name in changes:
            if name not in known:
                raise InputError(
                    f"Preset {self.name!r}: {self.architecture!r} has no field {name!r}."
                )
        return config_class(**given)

    def sweep_fields(
        self, *, d_in: int | None = None, d_sae: int | None = None, **changes: Any
    ) -> Fields:
        """
        Return the fields of a SweepConfig: the run, and the SAE under ``sae``.

        Args:
            d_in: width of the activations at the hook.
            d_sae: latents.
            changes: fields of SweepConfig that replace the paper's; those under ``sae``
                replace single fields of the SAE.

        Raises:
            InputError: if the paper has no language model and none is given.
        """
        sae = {**self.sae_fields(d_in=d_in, d_sae=d_sae), **changes.pop("sae", {})}
        fields = {**dataclasses.asdict(self.run), "sae": sae, **changes}
        missing = [
            name for name in ("model", "hook_name", "corpus") if fields[name] is None
        ]
        if missing:
            raise InputError(
                f"Preset {self.name!r} (arXiv {self.paper}) was not trained on a language model: "
                f"give {', '.join(missing)}, and d_in of that hook, or take .sae(d_in=...) and train "
                "on your own activations."
            )
        return fields


Error = Literal["sum", "mean"]
Scale = Literal["unit_mean_square", "as_trained"]


@dataclass(frozen=True, kw_only=True)
class PaperLoss:
    """
    The form of a paper's loss.

    Args:
        error: the squared error of one sample is the ``sum`` over d_in, as in SAELens, or
            the ``mean``. Samples of a batch are averaged in both.
        scale: ``unit_mean_square``: activations with E||x||^2 = 1, where ours have SAELens'
            E||x|| = sqrt(d_in) (``expected_average_only_in``); ``as_trained``: the same
            activations as ours.
    """

    error: Error = "sum"
    scale: Scale = "as_trained"

    def __post_init__(self) -> None:
        for name, kind in (("error", Error), ("scale", Scale)):
            require_choice(name, getattr(self, name), get_args(kind))


def loss_factor(paper: PaperLoss, *, d_in: int) -> float:
    """
    Return SAELens' loss over the paper's, for the same SAE up to scale.

    With c the paper's factor of the summed squared error (1 or 1 / d_in) and s our scale
    of activations over the paper's, this is s^2 / c.
    """
    return _scale(paper, d_in) ** 2 / _error_factor(paper, d_in)


def sae_lens_coefficient(
    coefficient: float, *, paper: PaperLoss, degree: int, d_in: int
) -> float:
    """
    Return the coefficient under SAELens' ``||x - x_hat||^2`` summed over d_in.

    The paper's loss is ``c ||x - x_hat||^2 + lambda R``. Scaling activations and biases by s
    multiplies the error by s^2 and R by s^degree, so that
    ``||.||^2 + lambda s^(2 - degree) / c  R`` is the paper's loss times s^2 / c: it has the
    same minima.

    Args:
        coefficient: the paper's lambda.
        paper: its loss.
        degree: of R in the scale of activations: 0 for weights, cosines and ratios, 1 for
            an L1 of activations, 2 for their squares.
        d_in: width of the activations.

    >>> loss = PaperLoss(scale="unit_mean_square")
    >>> sae_lens_coefficient(1e-4, paper=loss, degree=0, d_in=512)
    0.0512
    >>> sae_lens_coefficient(0.04, paper=loss, degree=1, d_in=2304)
    1.92
    """
    if degree not in (0, 1, 2):
        raise InputError(f"degree={degree}; expected 0, 1 or 2.")
    if d_in < 1:
        raise InputError(f"d_in={d_in}; expected at least 1.")
    scale, error = _scale(paper, d_in), _error_factor(paper, d_in)
    factor = scale ** (2 - degree) / error
    # sqrt(512)^2 is 512.0000000000001
    whole = round(factor)
    return coefficient * (whole if math.isclose(factor, whole) else factor)


def _scale(paper: PaperLoss, d_in: int) -> float:
    return math.sqrt(d_in) if paper.scale == "unit_mean_square" else 1.0


def _error_factor(paper: PaperLoss, d_in: int) -> float:
    return 1.0 if paper.error == "sum" else 1 / d_in


NO_SCHEDULE = "constant; no schedule is stated"
SAE_LENS_SCALE = "SAELens' E||x|| = sqrt(d_in)"

UNIT_NORM: Fields = {
    "decoder_constraint": "unit_norm",
    "normalize_activations": "expected_average_only_in",
}
"""Fields of an SAE with decoder rows of norm 1, on activations of SAELens' scale."""


def because(reason: str, *fields: str) -> dict[str, str]:
    """Return the same reason for several fields of ``Preset.chosen``."""
    return dict.fromkeys(fields, reason)


IMAGES = because(
    "of no use on images",
    *("context_size", "exclude_special_tokens", "prepend_bos", "buffer_tokens"),
    *("mixing_fraction", "disable_concat_sequences"),
)
"""Reasons for a run on images."""
