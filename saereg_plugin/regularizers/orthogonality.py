"""Decoder rows pushed apart (OrtSAE, arXiv 2509.22033)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from typing_extensions import override

from saereg_plugin.component import Step
from saereg_plugin.config import choice, count
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.cosines import (
    DirectionalConfig,
    DirectionalPenalty,
    Directions,
    cosine_gradient_,
    nearest_others,
)

Similarity = Literal["signed", "absolute"]


@register_regularizer("orthogonality")
@dataclass(frozen=True, kw_only=True)
class Orthogonality(DirectionalConfig):
    """
    ``coefficient * mean_chunks mean_{i in chunk} (max_{j != i} cos(dec_i, dec_j))^2``.

    arXiv 2509.22033: in each step the latents are split at random into
    ``K = ceil(d_sae / chunk_size)`` chunks of equal size (to one), and j runs over the
    chunk of i. Both rows of a pair get a gradient.

    Args:
        chunk_size: most latents in one chunk.
        every: apply it in every n-th step only, n times as strong (the paper's cheaper
            form: 5).
        similarity: ``signed`` takes the most similar row, as the paper's "closest
            counterpart"; ``absolute`` also pushes opposite rows apart.
    """

    coefficient: float = 0.25
    chunk_size: int = count(8192, least=2)
    similarity: Similarity = choice("signed", Similarity)

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> OrthogonalityModule:
        return OrthogonalityModule(self, label=label, seed=seed)


class OrthogonalityModule(DirectionalPenalty):
    """The penalty at work; its random chunks come from its own generator."""

    draws = True
    cfg: Orthogonality

    @override
    def measure(
        self, step: Step, own: Directions
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        chunks = self.split(len(own.unit))
        pairs = nearest_in_chunks(
            own.unit, chunks, absolute=self.cfg.similarity == "absolute"
        )
        value = (pairs.weight * pairs.cosine.square()).sum()
        self.logged = {
            "penalty": value,
            "mean_max_cos": (pairs.weight * pairs.cosine).sum(),
        }
        return value, squared_cosine_gradient(own, pairs)

    def split(self, n: int) -> Sequence[torch.Tensor]:
        """Split ``n`` latents at random into chunks; a single chunk needs no draw."""
        count = -(-n // self.cfg.chunk_size)
        device = self.sae.W_dec.device
        if count == 1:
            return [torch.arange(n, device=device)]
        order = torch.randperm(n, generator=self.generator).to(device)
        return order.tensor_split(count)


class Pairs(NamedTuple):
    """Each latent's most similar one in its chunk; [n] each."""

    partner: torch.Tensor
    """int64; itself if it is alone in its chunk."""
    cosine: torch.Tensor
    """Signed; 0 for a latent alone in its chunk."""
    weight: torch.Tensor
    """1 / (number of chunks * size of the chunk)."""


def nearest_in_chunks(
    unit: torch.Tensor, chunks: Sequence[torch.Tensor], *, absolute: bool = False
) -> Pairs:
    """
    Find each row's most similar one in its own chunk.

    Args:
        unit: unit rows, [n, d].
        chunks: indices, int64, that together are every row once.
        absolute: by absolute cosine.
    """
    partner = torch.arange(len(unit), device=unit.device)
    cosine, weight = unit.new_zeros(len(unit)), unit.new_zeros(len(unit))
    for chunk in chunks:
        weight[chunk] = 1 / (len(chunks) * max(len(chunk), 1))
        if len(chunk) < 2:
            continue
        rows = unit if len(chunks) == 1 else unit[chunk]
        nearest = nearest_others(rows, absolute=absolute)
        partner[chunk] = chunk[nearest]
        cosine[chunk] = (rows * rows[nearest]).sum(dim=1)
    return Pairs(partner, cosine, weight)


def squared_cosine_gradient(own: Directions, pairs: Pairs) -> torch.Tensor:
    """Return the gradient of ``sum_i weight_i cos(r_i, r_partner(i))^2``, [n, d]."""
    force = 2 * pairs.weight * pairs.cosine
    pull = own.unit[pairs.partner].mul_(force[:, None])
    pull.index_add_(0, pairs.partner, own.unit * force[:, None])
    along = force * pairs.cosine
    along = along.index_add(0, pairs.partner, along)
    return cosine_gradient_(own, pull, along, 1.0)
