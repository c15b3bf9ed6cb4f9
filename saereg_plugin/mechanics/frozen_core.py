"""Encoder columns held as they are (DMSAE, arXiv 2512.24975)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.config import MechanicConfig, count
from saereg_plugin.errors import InputError
from saereg_plugin.registry import register_mechanic

_ENCODER = "W_enc"


@register_mechanic("frozen_core")
@dataclass(frozen=True, kw_only=True)
class FrozenCore(MechanicConfig):
    """
    Hold the encoder columns of the first ``size`` latents as they are, bit for bit.

    arXiv 2512.24975 trains with a core of encoder vectors that earlier trainings promoted.
    Their decoder rows and biases are trained. The gradient of the columns is set to 0 before
    clipping, so that it has no part in the clipped norm; after each step the columns are put
    back, whatever weight decay or a decoupled penalty did to them.

    Args:
        size: latents of the core, 0 or more. ``saereg-bench distill`` sets the size of every
            SAE itself, as the cores of seeds differ.
    """

    order: ClassVar[int] = 65
    """After everything that changes weights; before the average of the weights."""

    size: int = count(0, least=0)

    @override
    def check(self, sae_cfg: Any) -> None:
        if self.size > sae_cfg.d_sae:
            raise InputError(
                f"frozen_core: size is {self.size}, but the SAE has d_sae={sae_cfg.d_sae} latents; "
                f"expected at most {sae_cfg.d_sae}."
            )
        names = [mechanic.name for mechanic in getattr(sae_cfg, "mechanics", [])]
        if "resampling" in names:
            raise InputError(
                "frozen_core: resampling points dead latents in new directions, and would leave dead "
                "latents of the core half changed. Leave out one of the two."
            )

    @override
    def build(self, sae_cfg: Any, *, seed: int) -> FrozenCoreModule:
        return FrozenCoreModule(self)


class FrozenCoreModule(Component):
    """The core in training."""

    counts = ("size",)

    def __init__(self, cfg: FrozenCore):
        super().__init__(label=cfg.name)
        self.size = cfg.size
        """Latents of the core. It may be set before the first step; a checkpoint keeps it."""
        self._columns = torch.empty(0)

    @override
    def loss(self, step: Step) -> None:
        # in each pass: the weights may be written at any time before a step
        self._columns = step.sae.W_enc.detach()[:, : self.size].clone()

    @override
    def metrics(self) -> dict[str, torch.Tensor | float]:
        return {"size": float(self.size)}

    @override
    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        if name == _ENCODER and parameter.grad is not None:
            parameter.grad[:, : self.size] = 0

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        columns = self.sae.W_enc[:, : self.size]
        columns.copy_(self._columns.to(columns))
