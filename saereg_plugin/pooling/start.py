"""Weights with which a pooled SAE starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from torch import Tensor

from saereg_plugin.architectures.parameters import own_tensors, parameter_of
from saereg_plugin.pooling.union import Union
from saereg_plugin.revival.weights import load_state_, trained_tensors


@torch.no_grad()
def load_pool_(
    sae: TrainingSAE[Any],
    saved: Sequence[SAE[Any]],
    latents: Sequence[Tensor],
    union: Union,
    *,
    scale: float,
    steps: int,
) -> None:
    """
    Give a training SAE the unique latents of saved ones, in place.

    Encoder and decoder vectors of a latent are the mean direction of its duplicates with their mean
    norm, other values their mean, and b_dec that of the SAEs. Schedules go on as after
    ``steps`` steps.

    Args:
        sae: of the same architecture, as wide as the union.
        saved: the SAEs.
        latents: candidates of each, int64.
        union: unique latents of the candidates.
        scale: factor of the activations in training.
        steps: completed steps of the saved SAEs.
    """
    trained = [trained_tensors(sae, one, scale=scale) for one in saved]
    state: dict[str, Tensor] = {}
    for name, tensor in own_tensors(sae):
        axis = parameter_of(sae, name).latent_axis
        if axis is None:
            mean = torch.stack([each[name] for each in trained]).mean(0)
            state[name] = mean.to(tensor)
            continue
        values = torch.cat(
            [
                each[name].movedim(axis, 0)[ids.to(tensor.device)]
                for each, ids in zip(trained, latents, strict=True)
            ]
        )
        merge = union.mean if values.ndim == 1 else union.mean_rows
        state[name] = merge(values).movedim(0, axis).to(tensor).contiguous()
    load_state_(sae, state, steps=steps)


@torch.no_grad()
def fit_scale_(sae: TrainingSAE[Any], rows: Tensor) -> float:
    """
    Scale the codes of a training SAE by the factor of least squared error, in place.

    Several dictionaries that each reconstruct the activations add up to too much. The factor
    is that of encoder, its biases and thresholds, so that the same latents fire.

    Args:
        sae: the training SAE.
        rows: activations as training scales them, [rows, d_in].

    Returns:
        The factor; 1 if nothing fires.
    """
    whole = sae(rows)
    # encodes again, as decoding lets go of what it was normalised with
    bias = sae.decode(torch.zeros_like(sae.encode(rows)))
    made = (whole - bias).double()
    size = float(made.square().sum())
    factor = float((made * (rows - bias).double()).sum()) / size if size else 1.0
    if not factor > 0:
        return 1.0
    for name, tensor in own_tensors(sae):
        facts = parameter_of(sae, name)
        if name == "W_enc" or (facts.in_activation_units and name != "b_dec"):
            tensor.mul_(factor)
    return factor
