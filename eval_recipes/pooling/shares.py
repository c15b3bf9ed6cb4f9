"""Shared latents of SAEs of any width, and what chance gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import bootstrap_mean_interval
from saereg_plugin.metrics import (
    SHARED_THRESHOLD,
    LeadingDirections,
    gaussian_rows,
    match_rows,
    mean_max_cos,
    shared_mask,
    unit_rows,
)

NULLS = ("random", "gaussian")
"""Rows of uniform directions; rows of N(0, Sigma_x), encoders equal to decoders."""


@dataclass(frozen=True)
class Dictionary:
    """Unit rows of encoder and decoder, [n, d_in] each."""

    enc: Tensor
    dec: Tensor

    @classmethod
    def of(cls, sae: SAE[Any]) -> Dictionary:
        """Take those of an SAE."""
        enc = unit_rows(sae.W_enc.detach().cpu().T).contiguous()
        return cls(enc, unit_rows(sae.W_dec.detach().cpu()))

    @property
    def shape(self) -> tuple[int, int]:
        """(latents, d_in)."""
        n, d_in = self.dec.shape
        return n, d_in

    def take(self, mask: Tensor) -> Dictionary:
        """Return some of its latents."""
        return Dictionary(self.enc[mask].contiguous(), self.dec[mask].contiguous())


def drawn(
    kind: str,
    shape: tuple[int, int],
    principal: LeadingDirections,
    generator: torch.Generator,
) -> Dictionary:
    """Draw a dictionary of one of the ``NULLS``; ``principal`` directions of the activations."""
    if kind == "gaussian":
        rows = gaussian_rows(principal, shape[0], generator)
        return Dictionary(rows, rows)
    return Dictionary(
        unit_rows(torch.randn(shape, generator=generator)),
        unit_rows(torch.randn(shape, generator=generator)),
    )


def shared_latents(a: Dictionary, b: Dictionary) -> Tensor:
    """
    Return which latents of the narrower dictionary are shared, bool [n]; of A if they are equal.

    Shared is as in ``cross_seed``: one partner by decoder and encoder, both with |cosine| above
    .7, in one-to-one matchings of the whole narrower dictionary.
    """
    if len(a.dec) > len(b.dec):
        a, b = b, a
    near = torch.ones(len(a.dec), dtype=torch.bool)
    for own, others in ((a.dec, b.dec), (a.enc, b.enc)):
        # most dictionaries that were drawn have none, so that no matching is needed
        if near.any():
            near &= mean_max_cos(own, others, unit=True).a_to_b > SHARED_THRESHOLD
    if not near.any():
        return near
    decoder = match_rows(a.dec, b.dec, unit=True)
    encoder = match_rows(a.enc, b.enc, unit=True)
    return shared_mask(decoder, encoder)


def over_latents(masks: Sequence[Tensor], *, seed: int) -> Interval | None:
    """Return the mean share of several pairs, with a bootstrap over the latents of each."""
    known = [mask.double().numpy() for mask in masks if len(mask)]
    if not known:
        return None
    caps = [1.0] * len(known)
    return bootstrap_mean_interval(known, caps=caps, seed=seed).within_one()


def pairs_of(
    a: Mapping[str, Dictionary], b: Mapping[str, Dictionary]
) -> list[tuple[str, str]]:
    """Return the pairs of different SAEs of two arms, those of one arm once, by id."""
    if list(a) == list(b):
        names = list(a)
        return [(x, y) for i, x in enumerate(names) for y in names[i + 1 :]]
    return [(x, y) for x in a for y in b]
