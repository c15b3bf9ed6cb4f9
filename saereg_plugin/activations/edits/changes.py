"""Kinds of edits: directions, and latents of an SAE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from saereg_plugin.errors import InputError


class Edit(ABC):
    """
    A change of rows, as what is added to them.

    An SAE's error term is kept by construction: x' = x + decode(z') - decode(z).
    """

    @property
    @abstractmethod
    def d_in(self) -> int:
        """Width of the rows."""

    @property
    @abstractmethod
    def changes_nothing(self) -> bool:
        """Whether the strength is 0."""

    @abstractmethod
    def shift(self, x: Tensor) -> Tensor:
        """Return what is added to x (inputs, rows, d_in): of that shape, or (d_in,)."""


@dataclass(frozen=True)
class AddDirection(Edit):
    """
    Add ``strength * vector`` to every row: plain activation steering, without an SAE.

    Raises:
        InputError: if the vector is not of shape (d_in,), or a number is not finite.
    """

    vector: Tensor
    strength: float = 1.0

    def __post_init__(self) -> None:
        _require_finite("strength", self.strength)
        if self.vector.ndim != 1 or not bool(self.vector.isfinite().all()):
            raise InputError(
                f"The vector has shape {tuple(self.vector.shape)}; expected finite numbers of "
                "shape (d_in,)."
            )

    @property
    def d_in(self) -> int:
        return len(self.vector)

    @property
    def changes_nothing(self) -> bool:
        return self.strength == 0

    def shift(self, x: Tensor) -> Tensor:
        return self.strength * self.vector.to(x.device)


@dataclass(frozen=True)
class AddLatents(Edit):
    """
    Shift latents by a multiple of their typical magnitude, also where they do not fire.

    z'_j = z_j + strength * typical_j. Activations may become negative: nothing is cut, so that
    strengths add up.

    Attributes:
        sae: see ``require_editable``.
        latents: ids.
        typical: of all latents, shape (d_sae,); see ``typical_magnitudes``.
        strength: one number, or one per latent, for example with the signs of a regression.

    Raises:
        InputError: for an unusable SAE, latent or strength, or a latent without a magnitude.
    """

    sae: SAE[Any]
    latents: Sequence[int]
    typical: Tensor
    strength: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        require_editable(self.sae, self.latents)
        _require_finite("strength", *self._strengths())
        if self.typical.shape != (self.sae.cfg.d_sae,):
            raise InputError(
                f"Typical magnitudes have shape {tuple(self.typical.shape)}; expected one per "
                f"latent of the SAE, ({self.sae.cfg.d_sae},)."
            )
        wanted = self.typical[list(self.latents)]
        lost = [
            j for j, size in zip(self.latents, wanted.tolist()) if not abs(size) > 0
        ]
        if lost:
            raise InputError(
                f"Latents {lost[:5]} fire in no row behind the typical magnitudes; expected "
                "latents that fire. Leave them out, or measure on more rows."
            )

    def _strengths(self) -> list[float]:
        """Return one strength per latent."""
        if isinstance(self.strength, (int, float)):
            return [float(self.strength)] * len(self.latents)
        if len(self.strength) != len(self.latents):
            raise InputError(
                f"{len(self.strength)} strengths for {len(self.latents)} latents; expected one "
                "number, or one per latent."
            )
        return [float(value) for value in self.strength]

    @property
    def d_in(self) -> int:
        return self.sae.cfg.d_in

    @property
    def changes_nothing(self) -> bool:
        return not any(self._strengths())

    def shift(self, x: Tensor) -> Tensor:
        self.sae.process_sae_in(x.to(self.sae.device))
        strengths = torch.tensor(self._strengths())
        added = strengths * self.typical[list(self.latents)].float().cpu()
        return _decoded(self.sae, self.latents, added.to(self.sae.W_dec))


@dataclass(frozen=True)
class ScaleLatents(Edit):
    """
    Multiply latents: z'_j = (1 + strength) z_j; strength -1 sets them to zero.

    Raises:
        InputError: for an unusable SAE, latent or strength.
    """

    sae: SAE[Any]
    latents: Sequence[int]
    strength: float

    def __post_init__(self) -> None:
        require_editable(self.sae, self.latents)
        _require_finite("strength", self.strength)

    @property
    def d_in(self) -> int:
        return self.sae.cfg.d_in

    @property
    def changes_nothing(self) -> bool:
        return self.strength == 0

    def shift(self, x: Tensor) -> Tensor:
        codes = dense_codes(self.sae, x)[..., list(self.latents)]
        return _decoded(self.sae, self.latents, self.strength * codes)


def zero_latents(sae: SAE[Any], latents: Sequence[int]) -> ScaleLatents:
    """Return the edit that sets latents to zero; raises InputError as ``ScaleLatents``."""
    return ScaleLatents(sae, latents, -1.0)


def require_editable(sae: SAE[Any], latents: Sequence[int]) -> None:
    """
    Refuse an SAE whose decoder is not one linear map of its latents, and unknown latents.

    Raises:
        InputError: for a transcoder, SAELens' temporal SAE, an SAE on heads, an input scale
            that is not folded, or a latent that the SAE lacks.
    """
    architecture, cfg = sae.cfg.architecture(), sae.cfg
    if getattr(cfg, "d_out", None) is not None or architecture == "temporal":
        raise InputError(
            f"The SAE is a {architecture}; expected one that decodes into what it reads, by one "
            "matrix."
        )
    if cfg.reshape_activations == "hook_z":
        raise InputError(
            "The SAE reads heads (hook_z); expected one that reads a module's output."
        )
    if cfg.normalize_activations == "expected_average_only_in":
        raise InputError(
            "The SAE's input scale is not folded into its weights; expected a saved SAE. Call "
            "fold_activation_norm_scaling_factor first."
        )
    wrong = [latent for latent in latents if not 0 <= latent < cfg.d_sae]
    if wrong or not len(latents):
        raise InputError(
            f"Latents {wrong[:5]} were asked for; expected one or more ids below {cfg.d_sae}."
        )


def dense_codes(sae: SAE[Any], x: Tensor) -> Tensor:
    """Return the codes of x (..., d_in), dense (..., d_sae), in the SAE's data type."""
    codes = sae.encode(x.to(sae.device))
    return codes if codes.layout == torch.strided else codes.to_dense()


def _decoded(sae: SAE[Any], latents: Sequence[int], codes: Tensor) -> Tensor:
    """
    Return what a change of latents' codes (..., latents) adds to the decoder's output.

    The SAE's input went through ``process_sae_in`` just before, which remembers each row's
    scale where the SAE normalises rows.
    """
    rows = sae.W_dec.detach()[list(latents)]
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        rows = rows / rows.norm(dim=-1, keepdim=True)
    return codes @ rows * _row_scale(sae)


def _row_scale(sae: SAE[Any]) -> Tensor | float:
    """Return the factor from decoder's output to input, by row (..., 1), and forget it."""
    state: Any = sae
    if sae.cfg.normalize_activations == "layer_norm":
        scale = state.ln_std
        del state.ln_mu, state.ln_std
        return scale
    if sae.cfg.normalize_activations == "constant_norm_rescale":
        scale = 1 / state.x_norm_coeff
        del state.x_norm_coeff
        return scale
    return 1.0


def _require_finite(name: str, *values: float) -> None:
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise InputError(f"{name} is {wrong[0]}; expected a finite number.")
