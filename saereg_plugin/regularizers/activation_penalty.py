"""Penalties on activations before the sparsifier (arXiv 2606.27321)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from sae_lens import StandardTrainingSAEConfig
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.config import RegularizerConfig, choice
from saereg_plugin.errors import InputError
from saereg_plugin.firing import dense, fired_latents

ActivationMask = Literal["batch_active", "none"]
BatchReduction = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class ActivationPenalty(RegularizerConfig):
    """
    A penalty on ``a = relu(hidden_pre)``, row by row, of latents that a mask keeps.

    A subclass implements ``sum_over_rows``.

    Args:
        mask: ``batch_active`` (the paper's) keeps the latents with ``z_j > 0`` for at
            least one row of this batch, without a gradient through it. ``none`` keeps all.
        reduction: over the rows: ``mean``, or ``sum`` (the paper's, whose strength
            grows with the batch).
    """

    reason_on_standard: ClassVar[str]
    """Why the penalty has no place on SAELens' standard architecture."""

    mask: ActivationMask = choice("batch_active", ActivationMask)
    reduction: BatchReduction = choice("mean", BatchReduction)

    @override
    def check(self, sae_cfg: Any) -> None:
        if isinstance(sae_cfg, StandardTrainingSAEConfig):
            raise InputError(
                f"{self.name} on {sae_cfg.architecture()}: {self.reason_on_standard} "
                "Use an architecture that selects latents after the ReLU, for example "
                "regularized_topk."
            )

    def sum_over_rows(
        self, hidden_pre: torch.Tensor, acts: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Return the penalty summed over the rows, a scalar with a graph to ``hidden_pre``.

        Args:
            hidden_pre: pre-activations, [batch, d_sae].
            acts: activations after the sparsifier, without gradients, [batch, d_sae].
            mask: bool [d_sae], the latents that count; None for all.
        """
        raise NotImplementedError

    def further_metrics(
        self, acts: torch.Tensor, total: torch.Tensor
    ) -> dict[str, torch.Tensor | float]:
        """Return further values to log, from the penalty's sum over the rows."""
        return {}

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> ActivationPenaltyModule:
        return ActivationPenaltyModule(self, label=label)


class ActivationPenaltyModule(Component):
    """A penalty on activations in training."""

    def __init__(self, cfg: ActivationPenalty, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg

    @override
    def loss(self, step: Step) -> torch.Tensor:
        coefficient = self.cfg.schedule.value(self.cfg.coefficient, step.index)
        acts = dense(step.feature_acts.detach())
        mask = fired_latents(step)
        total = self.cfg.sum_over_rows(
            step.hidden_pre, acts, mask if self.cfg.mask == "batch_active" else None
        )
        rows = step.hidden_pre.shape[0] if self.cfg.reduction == "mean" else 1
        penalty = total / rows
        self.logged = {
            "coefficient": coefficient,
            "penalty": penalty.detach(),
            "active_latents": mask.sum(),
            **self.cfg.further_metrics(acts, total.detach()),
        }
        return coefficient * penalty
