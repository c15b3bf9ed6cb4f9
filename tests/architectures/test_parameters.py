"""Parameters of the architectures: their latents, their units, and unknown ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

import saereg_plugin as sr
from saereg_plugin.architectures.parameters import (
    PARAMETERS,
    Parameter,
    own_tensors,
    parameter_of,
)
from tests.training import ARCHITECTURES, D_IN, D_SAE, make_cfg, make_sae

SCALE = 3.0


class WithExtraBias(sr.RegularizedTopKTrainingSAE):
    """An architecture of a user with a parameter that SAELens does not have."""

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.b_extra = nn.Parameter(torch.ones(D_IN))


class WithDeclaredBias(WithExtraBias):
    further_parameters = {"b_extra": Parameter(None, in_activation_units=True)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_latent_axis_counts_latents(architecture: str) -> None:
    tensors = dict(own_tensors(make_sae(architecture)))
    assert set(tensors) <= set(PARAMETERS)
    for name, tensor in tensors.items():
        axes = [axis for axis, size in enumerate(tensor.shape) if size == D_SAE]
        axis = PARAMETERS[name].latent_axis
        assert axes == ([] if axis is None else [axis]), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_scaling_what_is_in_activation_units_scales_the_output(
    architecture: str,
) -> None:
    sae = make_sae(architecture, decoder_constraint="unit_norm")
    generator = torch.Generator().manual_seed(0)
    for _, tensor in own_tensors(sae):
        noise = torch.rand(tensor.shape, generator=generator)
        tensor.add_(0.1 * noise.to(tensor))
    x = torch.randn(8, D_IN, generator=generator)
    before = sae.decode(sae.encode(x))
    for name, tensor in own_tensors(sae):
        if parameter_of(sae, name).in_activation_units:
            tensor.mul_(SCALE)
    after = sae.decode(sae.encode(SCALE * x))
    torch.testing.assert_close(after, SCALE * before, rtol=1e-4, atol=1e-4)


def test_an_unknown_parameter_is_refused_when_the_sae_is_built() -> None:
    message = "WithExtraBias has the parameter 'b_extra', .*further_parameters"
    with pytest.raises(sr.InputError, match=message):
        WithExtraBias(make_cfg())


def test_a_declared_bias_is_folded_with_the_others() -> None:
    cfg: Any = make_cfg(decoder_constraint="unit_norm")
    sae = WithDeclaredBias(cfg)
    rows = sae.W_dec.detach().clone()
    sae.fold_activation_norm_scaling_factor(2.0)
    assert torch.equal(sae.b_extra, torch.full((D_IN,), 0.5))
    assert torch.equal(sae.W_dec, rows)
