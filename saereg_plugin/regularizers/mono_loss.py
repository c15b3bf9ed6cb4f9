"""Monosemanticity of the batch as a loss (arXiv 2602.12403)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.config import RegularizerConfig
from saereg_plugin.firing import dense
from saereg_plugin.kernels.selected import Selected
from saereg_plugin.registry import register_regularizer

_LEAST_SHARE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Weight of a latent's pairs, as a share of its squared sum, below which it has no score:
rounding is near."""


@register_regularizer("mono_loss")
@dataclass(frozen=True, kw_only=True)
class MonoLoss(RegularizerConfig):
    """
    ``coefficient * (1 - mean_j MS_j)``, over latents that fire on two rows or more.

    arXiv 2602.12403, MonoLoss: ``MS_j = sum_{n<m} z_nj z_mj cos(x_n, x_m) /
    sum_{n<m} z_nj z_mj`` over the rows x of the batch, the SAE's own inputs. The paper's
    coefficient is .09. Activations are not shifted by their minimum, which is 0 unless a
    latent fires on every row. A row of 0 has a cosine of 0 to every other; the score of
    the evaluation refuses such an embedding.
    """

    needs_all_pre_activations: ClassVar[bool] = False

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> MonoLossModule:
        return MonoLossModule(self, label=label)


class MonoLossModule(Component):
    """MonoLoss in training."""

    def __init__(self, cfg: MonoLoss, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg

    @override
    def loss(self, step: Step) -> Tensor:
        inputs = step.sae_in.detach()
        unit = functional.normalize(inputs.to(sums_dtype(inputs.device)), dim=-1)
        if step.active is None:
            sums = dense_sums(dense(step.feature_acts), unit)
        else:
            sums = sparse_sums(step.active.selected, step.active.values, unit)
        scores, scored = batch_scores(sums)
        count = scored.sum()
        mean = scores.sum() / count.clamp(min=1)
        coefficient = self.cfg.schedule.value(self.cfg.coefficient, step.index)
        self.logged = {
            "coefficient": coefficient,
            "monosemanticity": mean.detach(),
            "scored_latents": count,
        }
        dtype = torch.promote_types(step.sae.W_dec.dtype, torch.float32)
        return (coefficient * (1 - mean)).to(dtype)


def sums_dtype(device: torch.device) -> torch.dtype:
    """
    Return the dtype of the sums on a device: float64, on MPS, which has none, float32.

    >>> sums_dtype(torch.device("mps"))
    torch.float32
    """
    return torch.float32 if device.type == "mps" else torch.float64


class BatchSums(NamedTuple):
    """Sums over the rows of a batch in the dtype of ``unit``, [d_sae] each, with gradients."""

    total: Tensor
    """u, of z."""
    square: Tensor
    """v, of z^2."""
    own: Tensor
    """Of z^2 where the input is not 0: the cosine of a row to itself is then 1."""
    weighted: Tensor
    """|w|^2, w the sum of z times the unit input."""


def dense_sums(acts: Tensor, unit: Tensor) -> BatchSums:
    """
    Return the sums of dense activations.

    Args:
        acts: z, [batch, d_sae].
        unit: inputs as unit rows, in the dtype of ``sums_dtype``, [batch, d_in].
    """
    z = acts.to(unit.dtype)
    squares = z.square()
    weighted = (z.T @ unit).square().sum(dim=1)
    return BatchSums(z.sum(0), squares.sum(0), _norms(unit) @ squares, weighted)


def sparse_sums(selected: Selected, values: Tensor, unit: Tensor) -> BatchSums:
    """
    Return the same sums of selected activations, in time of pairs times d_in.

    Args:
        selected: pairs (row, latent).
        values: z of each pair, [n].
        unit: inputs as unit rows, in the dtype of ``sums_dtype``, [batch, d_in].
    """
    z = values.to(unit.dtype)
    squares = z.square()
    return BatchSums(
        selected.latent_sums(z),
        selected.latent_sums(squares),
        selected.latent_sums(squares * _norms(unit)[selected.rows]),
        selected.weighted_latents(z, unit).square().sum(dim=1),
    )


def batch_scores(sums: BatchSums) -> tuple[Tensor, Tensor]:
    """
    Return each latent's score in the batch, 0 without one, and whether it has one.

    Returns:
        Scores, [d_sae] with gradients, and bool [d_sae].
    """
    weights = sums.total.square() - sums.square
    scored = weights > _LEAST_SHARE[weights.dtype] * sums.total.detach().square()
    pairs = (sums.weighted - sums.own) / torch.where(scored, weights, 1.0)
    return torch.where(scored, pairs, 0.0), scored


def _norms(unit: Tensor) -> Tensor:
    """Return 1 for a row with a direction, 0 for a row of 0, [batch]."""
    return unit.square().sum(dim=1)
