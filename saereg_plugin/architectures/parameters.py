"""Parameters of SAELens' architectures, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from sae_lens import TrainingSAE

from saereg_plugin.errors import InputError


class Parameter(NamedTuple):
    """Description of a parameter or buffer of an SAE."""

    latent_axis: int | None
    """The axis that counts latents; None if the parameter belongs to no latent."""
    in_activation_units: bool
    """Whether it grows with the scale of activations, as biases and thresholds do."""


PARAMETERS = {
    "W_enc": Parameter(1, in_activation_units=False),
    "W_dec": Parameter(0, in_activation_units=False),
    "b_enc": Parameter(0, in_activation_units=True),
    "b_dec": Parameter(None, in_activation_units=True),
    "b_gate": Parameter(0, in_activation_units=True),
    "b_mag": Parameter(0, in_activation_units=True),
    "r_mag": Parameter(0, in_activation_units=False),
    "threshold": Parameter(0, in_activation_units=True),
    "topk_threshold": Parameter(None, in_activation_units=True),
}
"""Parameters and buffers of SAELens' training SAEs. An architecture of yours that has
others declares them in its class attribute ``further_parameters``."""

WEIGHTS = {"encoder": ("W_enc",), "decoder": ("W_dec",), "both": ("W_enc", "W_dec")}
"""Names of the weight matrices that a ``target`` stands for."""


def parameter_of(sae: TrainingSAE[Any], name: str) -> Parameter:
    """
    Return the description of the parameter or buffer ``name`` of an SAE.

    Raises:
        InputError: if neither SAELens' architectures nor the SAE's class declare it.
    """
    known = {**PARAMETERS, **getattr(sae, "further_parameters", {})}
    if name not in known:
        raise InputError(
            f"{type(sae).__name__} has the parameter {name!r}, of which nothing is known; "
            f"expected one of {', '.join(known)}. Declare it in the class: "
            f"further_parameters = {{{name!r}: Parameter(latent_axis=..., "
            "in_activation_units=...)}, with Parameter from saereg_plugin.architectures.parameters."
        )
    return known[name]


def own_tensors(sae: TrainingSAE[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the SAE's parameters and buffers by name, without those of its components."""
    yield from sae.named_parameters(recurse=False)
    yield from sae.named_buffers(recurse=False)
