"""Gradients times clip(1 / (1e-6 + h), .1, 10)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import saereg_plugin as sr
from saereg_plugin.mechanics.rate_scaling import rate_factors
from tests.mechanics.small import D_SAE, STEPS, backward, data, small_sae

LATENT_AXES = {
    "W_enc": 1,
    "W_dec": 0,
    **dict.fromkeys(("b_enc", "b_gate", "b_mag", "r_mag", "threshold"), 0),
}


def test_factors_by_hand() -> None:
    rate = torch.tensor([0.0, 0.01, 0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
    expected = torch.tensor([10, 10, 1 / 0.100001, 1 / 0.200001, 1 / 0.500001, 1])
    torch.testing.assert_close(
        rate_factors(rate, 0.1, 10.0), expected.double(), rtol=2e-6, atol=0
    )
    assert rate_factors(rate, 0.1, 2.0).tolist()[:4] == [2.0] * 4
    assert rate_factors(rate, 0.1, 0.5).tolist() == [0.5] * 6


def expected_factor(h: float) -> float:
    return min(max(1 / (1e-6 + h), 0.1), 10.0)


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_gradients_are_the_plain_ones_times_the_factor(
    architecture: str, fields: dict[str, Any]
) -> None:
    plain = small_sae(architecture, **fields)
    scaled = small_sae(
        architecture, mechanics=[sr.ActivationRateScaling(decay=0.5)], **fields
    )
    (batch,) = data(1)
    output = backward(plain, batch)
    backward(scaled, batch)
    acts = output.feature_acts.detach().to_dense()
    rates = 0.5 * (acts > 0).float().mean(dim=0)
    factors = torch.tensor([expected_factor(float(h)) for h in rates])
    assert len(set(factors.tolist())) > 2 and factors.min() < 10
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        expected = parameter.grad
        if name != "b_dec":
            shape = [1, 1][: parameter.ndim]
            shape[LATENT_AXES[name]] = D_SAE
            expected = expected * factors.reshape(shape)
        torch.testing.assert_close(
            scaled.get_parameter(name).grad, expected, rtol=1e-6, atol=0
        )


def test_regularisers_gradients_are_scaled_too_and_projected_after() -> None:
    fields: dict[str, Any] = {
        "regularizers": [sr.WeightPenalty(coefficient=0.3, norm="l1")],
        "decoder_constraint": "unit_norm",
    }
    plain = small_sae(**fields)
    scaled = small_sae(mechanics=[sr.ActivationRateScaling(decay=0.5)], **fields)
    (batch,) = data(1)
    acts = [backward(sae, batch).feature_acts.detach() for sae in (plain, scaled)][0]
    factors = rate_factors(0.5 * (acts > 0).float().mean(dim=0), 0.1, 10.0)
    torch.testing.assert_close(scaled.W_enc.grad, plain.W_enc.grad * factors)
    torch.testing.assert_close(scaled.W_dec.grad, plain.W_dec.grad * factors[:, None])
    along = (scaled.W_dec.grad * scaled.W_dec.detach()).sum(dim=-1)
    assert along.abs().max() < 1e-5 * scaled.W_dec.grad.norm(dim=-1).max()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay": 1.0}, r"decay is 1.0; expected a number in \[0, 1\)"),
        ({"decay": math.nan}, "decay is nan"),
        ({"least": 0.0}, "least is 0.0; expected a number above 0"),
        ({"least": 2.0, "most": 1.0}, "most is 1.0; expected a number of at least 2.0"),
        ({"most": "10"}, "most is '10'"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match="activation_rate_scaling: " + message):
        sr.ActivationRateScaling(**fields)
