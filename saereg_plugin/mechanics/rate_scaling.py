"""Scaling of gradients by firing rates (TemporalSAE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override

from saereg_plugin.architectures.parameters import parameter_of
from saereg_plugin.checks import is_finite
from saereg_plugin.component import Step
from saereg_plugin.config import MechanicConfig, number
from saereg_plugin.firing import FiringRateComponent
from saereg_plugin.registry import register_mechanic

_EPSILON = 1e-6


@register_mechanic("activation_rate_scaling")
@dataclass(frozen=True, kw_only=True)
class ActivationRateScaling(MechanicConfig):
    """
    Multiply the gradients of latent j by ``clip(1 / (1e-6 + h_j), least, most)``.

    TemporalSAE. h_j is the running firing rate, ``h <- decay h + (1 - decay) f`` from 0,
    with the step's own batch already in it (our choice). All of latent j's parameters
    are scaled: its encoder column, decoder row and biases (gated: b_gate, b_mag and
    r_mag; jumprelu: its threshold), with the regularisers' part of the gradient; b_dec
    belongs to no latent. A rate is at most 1, so the factor is at least 1 whatever ``least``.

    Args:
        decay: weight of the past in h, in [0, 1).
        least: lower bound of the factor, above 0.
        most: upper bound of the factor, ``least`` or more.
    """

    order: ClassVar[int] = 10

    decay: float = number(0.99, lambda v: 0 <= v < 1, "a number in [0, 1)")
    least: float = number(0.1, lambda v: v > 0, "a number above 0")
    most: float = 10.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        holds = is_finite(self.most) and self.most >= self.least
        self.require("most", holds, f"a number of at least {self.least}")

    @override
    def build(self, sae_cfg: Any, *, seed: int) -> ActivationRateScalingModule:
        return ActivationRateScalingModule(self, sae_cfg.d_sae)


class ActivationRateScalingModule(FiringRateComponent):
    """The scaling in training."""

    def __init__(self, cfg: ActivationRateScaling, d_sae: int):
        super().__init__(d_sae, decay=cfg.decay, label=cfg.name)
        self.cfg = cfg
        self._factors = torch.ones(d_sae)

    @override
    def loss(self, step: Step) -> None:
        rate = self.new_rate(step)
        self._factors = rate_factors(rate, self.cfg.least, self.cfg.most)
        self.logged = {"mean_factor": self._factors.mean()}

    @override
    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        axis = parameter_of(self.sae, name).latent_axis
        if parameter.grad is not None and axis is not None:
            factors = self._factors.to(parameter.grad)
            rows = axis == 0 and parameter.ndim == 2
            parameter.grad.mul_(factors[:, None] if rows else factors)


def rate_factors(rate: torch.Tensor, least: float, most: float) -> torch.Tensor:
    """Return ``clip(1 / (1e-6 + rate), least, most)``."""
    return (rate + _EPSILON).reciprocal().clamp(least, most)
