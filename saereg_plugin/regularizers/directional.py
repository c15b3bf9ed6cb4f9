"""What penalties on the directions of decoder rows share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.regularizers.base import RegularizerConfig
from saereg_plugin.regularizers.cosines import Directions


@dataclass(frozen=True, kw_only=True)
class DirectionalConfig(RegularizerConfig):
    """
    Configuration of a penalty on the cosines of decoder rows.

    Args:
        every: apply the penalty in every n-th step only, n times as strong: in the
            mean over steps the same, at an n-th of the cost.
    """

    needs_all_pre_activations: ClassVar[bool] = False

    every: int = 1

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_count("every")

    def strength(self, step: int) -> float:
        """Return the factor of the penalty after ``step`` completed steps; 0 if it rests."""
        if step % self.every:
            return 0.0
        return self.every * self.schedule.value(self.coefficient, step)


class DirectionalPenalty(Component):
    """
    A penalty that only depends on the directions of W_dec's rows.

    Its value carries no graph: the gradient has a closed form and is added to
    ``W_dec.grad``. A subclass implements ``measure``.
    """

    def __init__(self, cfg: DirectionalConfig, *, label: str, seed: int = 0):
        super().__init__(label=label, seed=seed)
        self.cfg = cfg
        self.strength = 0.0
        self.direction: torch.Tensor | None = None
        self.logged: dict[str, torch.Tensor | float] = {}

    def measure(
        self, step: Step, own: Directions
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Return the penalty, a scalar, and its gradient with respect to W_dec.

        What it puts into ``self.logged`` is logged until it is called again. The gradient
        is [d_sae, d_in] and may be kept; None stands for zero.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement measure().")

    @override
    @torch.no_grad()
    def loss(self, step: Step) -> torch.Tensor:
        self.direction = None
        self.strength = self.cfg.strength(step.index)
        rows = step.sae.W_dec
        if step.index % self.cfg.every:
            return torch.zeros((), device=rows.device)
        value, self.direction = self.measure(step, Directions.of(rows))
        return self.strength * value

    @override
    def metrics(self) -> dict[str, torch.Tensor | float]:
        return {"coefficient": self.strength, **self.logged}

    @override
    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        if name != "W_dec" or parameter.grad is None or self.direction is None:
            return
        if self.strength != 0:
            parameter.grad.add_(
                self.direction.to(parameter.grad.dtype), alpha=self.strength
            )

    @override
    def before_step(self, lr: float) -> None:
        # as large as W_dec: not to be held while the next batch is computed
        self.direction = None
