"""Exponential moving average of the weights (arXiv 2406.04093)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.architectures.parameters import parameter_of
from saereg_plugin.component import Component
from saereg_plugin.config import MechanicConfig, number
from saereg_plugin.mechanics.row_floor import normalize_rows_
from saereg_plugin.registry import register_mechanic


@register_mechanic("weight_ema")
@dataclass(frozen=True, kw_only=True)
class WeightEma(MechanicConfig):
    """
    Save the exponential moving average of the weights instead of the last weights.

    arXiv 2406.04093, appendix A: ``m <- decay m + (1 - decay) w`` after each optimiser step,
    from m = 0; the average is ``m / (1 - decay^t)`` after t steps. Training uses the weights
    themselves and is unchanged.

    Args:
        decay: weight of the past, in [0, 1). The source uses 0.999.
    """

    order: ClassVar[int] = 70
    """After everything that changes weights, the floor of rows included."""

    weight_copies: ClassVar[int] = 1

    decay: float = number(0.999, lambda v: 0 <= v < 1, "a number in [0, 1)")

    @override
    def build(self, sae_cfg: Any, *, seed: int) -> WeightEmaModule:
        return WeightEmaModule(self)


class WeightEmaModule(Component):
    """The sums ``m`` of all parameters, in float32 or better, as buffers ``m_<name>``."""

    counts = ("steps",)

    def __init__(self, cfg: WeightEma):
        super().__init__(label=cfg.name)
        self.decay = cfg.decay
        self.steps = 0
        """Optimiser steps in the average."""

    @override
    def allocate(self, sae: TrainingSAE[Any]) -> None:
        for name, parameter in sae.named_parameters(recurse=False):
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            self.register_buffer(f"m_{name}", torch.zeros_like(parameter, dtype=dtype))

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in self.sae.named_parameters(recurse=False):
            m = self._sum(name)
            m.lerp_(parameter.to(m.dtype), 1 - self.decay)
        self.steps += 1

    @override
    def restarted(self, latents: torch.Tensor) -> None:
        # the average of a latent's old and new direction would be neither
        for name, parameter in self.sae.named_parameters(recurse=False):
            axis = parameter_of(self.sae, name).latent_axis
            if axis is not None:
                m = self._sum(name)
                new = parameter.index_select(axis, latents).to(m.dtype)
                m.index_copy_(axis, latents, new * self._weight())

    @override
    @torch.no_grad()
    def saved_weights(self, sae: TrainingSAE[Any]) -> dict[str, torch.Tensor]:
        """Return the averages by name; none before the first step."""
        if self.steps == 0:
            return {}
        averages = {
            name: (self._sum(name) / self._weight()).to(parameter.dtype)
            for name, parameter in sae.named_parameters(recurse=False)
        }
        if sae.cfg.unit_norm:
            # the mean of unit vectors is shorter
            normalize_rows_(averages["W_dec"])
        return averages

    @override
    def finish(self, sae: TrainingSAE[Any]) -> None:
        # the weights are the average from here on
        self.steps = 0
        for name, _ in sae.named_parameters(recurse=False):
            self._sum(name).zero_()

    def _sum(self, name: str) -> torch.Tensor:
        return cast(torch.Tensor, getattr(self, f"m_{name}"))

    def _weight(self) -> float:
        """Return the sum of the weights of all steps, ``1 - decay^t``."""
        return 1 - self.decay**self.steps
