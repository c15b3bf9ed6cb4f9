"""Weights of saved SAEs in the units of their training."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from torch import Tensor

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.parameters import own_tensors, parameter_of


@torch.no_grad()
def load_trained_(
    sae: TrainingSAE[Any], saved: SAE[Any], *, scale: float, steps: int
) -> None:
    """
    Give a training SAE the weights of a saved one, in place; latents beyond its width get 0.

    Saving folded the factor of the activations into the weights; this takes it out again.
    Schedules go on as after ``steps`` steps, and b_dec counts as initialised.

    Args:
        sae: of the same architecture, at least as wide.
        saved: the saved SAE.
        scale: factor of the activations in training.
        steps: completed steps of the saved SAE.
    """
    own = dict(own_tensors(sae))
    state: dict[str, Tensor] = {}
    for name, trained in trained_tensors(sae, saved, scale=scale).items():
        tensor = own[name]
        # a row of 0 would have no direction to be divided by
        value = tensor.clone() if name == "W_dec" else torch.zeros_like(tensor)
        axis = parameter_of(sae, name).latent_axis
        whole = value if axis is None else value.narrow(axis, 0, trained.shape[axis])
        whole.copy_(trained)
        state[name] = value
    load_state_(sae, state, steps=steps)


@torch.no_grad()
def trained_tensors(
    sae: TrainingSAE[Any], saved: SAE[Any], *, scale: float
) -> dict[str, Tensor]:
    """
    Return the tensors of a saved SAE as training has them, without those of components.

    Saving folded the factor of the activations into the weights; this takes it out again.

    Args:
        sae: of the same architecture, of any width.
        saved: the saved SAE.
        scale: factor of the activations in training.
    """
    source = dict(saved.state_dict())
    if "topk_threshold" in sae.state_dict():
        source["topk_threshold"] = source.pop("threshold").mean()
    cfg: Any = sae.cfg
    rescaled = cfg.unit_norm or getattr(cfg, "rescale_acts_by_decoder_norm", False)
    return {
        name: source[name].to(tensor) * unfolded(sae, name, scale, rescaled=rescaled)
        for name, tensor in own_tensors(sae)
    }


@torch.no_grad()
def load_state_(sae: TrainingSAE[Any], state: dict[str, Tensor], *, steps: int) -> None:
    """
    Give a training SAE tensors such as ``trained_tensors`` returns, in place.

    Schedules go on as after ``steps`` steps, and b_dec counts as initialised.
    """
    assert isinstance(sae, RegularizedMixin)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    sae.step_index = steps


def unfolded(
    sae: TrainingSAE[Any], name: str, scale: float, *, rescaled: bool
) -> float:
    """Return what a saved tensor is multiplied with, to act on scaled activations."""
    if rescaled:
        return scale if parameter_of(sae, name).in_activation_units else 1.0
    # the inverse of SAELens' own fold
    return {"W_enc": 1 / scale, "W_dec": scale, "b_dec": scale}.get(name, 1.0)
