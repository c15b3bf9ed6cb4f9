"""What is measured on two SAEs: one array over latents for each metric and side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from eval_recipes.cross_seed.config import CrossSeedEvalConfig
from saereg_plugin.metrics import (
    SharedLatents,
    alive_mask,
    match_rows,
    mean_max_cos,
    shared_latents,
)

Side = Literal[0, 1]

PAIR_METRICS = (
    "mean_max_cos",
    "mean_max_cos_decoder",
    "mean_max_cos_encoder",
    "fraction_paired",
    "fraction_paired_symmetrised",
    "pw_mcc_signed",
    "pw_mcc_absolute",
    "shared",
    "shared_alive",
)

SYMMETRIC = frozenset(
    {
        "mean_max_cos",
        "mean_max_cos_decoder",
        "mean_max_cos_encoder",
        "fraction_paired_symmetrised",
    }
)
"""Metrics that average both sides; the others are those of one side's latents."""


@dataclass(frozen=True)
class Weights:
    """Vectors of one SAE as rows of float32, [d_sae, d_in], and its alive latents."""

    enc: Tensor
    dec: Tensor
    alive: Tensor

    @classmethod
    def of(cls, W_enc: Tensor, W_dec: Tensor, *, alive_threshold: float) -> Weights:
        """Take SAELens' ``W_enc`` [d_in, d_sae] and ``W_dec`` [d_sae, d_in]."""
        enc = W_enc.detach().cpu().float().T.contiguous()
        dec = W_dec.detach().cpu().float().contiguous()
        return cls(enc, dec, alive_mask(enc, dec, threshold=alive_threshold))

    @cached_property
    def alive_ids(self) -> Tensor:
        """Ids of the alive latents."""
        return self.alive.nonzero().flatten()


@dataclass(frozen=True)
class PairFigures:
    """
    Figures of the pair (A, B).

    ``values[metric]`` holds one array over A's latents and one over B's; the
    metric is the mean of its side's array, or of both means if ``SYMMETRIC``.
    They are empty where the metric is not defined (no alive latent on one side).
    """

    values: Mapping[str, tuple[Tensor, Tensor]]
    shared: tuple[Tensor, Tensor]
    """[d_sae] bool, by the ids of A and by those of B."""
    shared_alive: tuple[Tensor, Tensor]

    def figure(self, metric: str, side: Side) -> float | None:
        """Return the metric as seen from A (0) or from B (1)."""
        own, other = self.values[metric][side], self.values[metric][1 - side]
        if len(own) == 0:
            return None
        mean = float(own.double().mean())
        if metric in SYMMETRIC:
            return (mean + float(other.double().mean())) / 2
        return mean


def measure_pair(a: Weights, b: Weights, config: CrossSeedEvalConfig) -> PairFigures:
    """Compute every figure of two SAEs with the same ``d_in``."""
    threshold = config.shared_threshold
    decoder, encoder = mean_max_cos(a.dec, b.dec), mean_max_cos(a.enc, b.enc)
    paired = (decoder.a_to_b > threshold, decoder.b_to_a > threshold)
    everything = shared_latents(a.dec, a.enc, b.dec, b.enc, threshold=threshold)
    # Filtering nothing cannot change the answer, and matching is what costs time.
    alive = (
        everything
        if a.alive.all() and b.alive.all()
        else shared_latents(
            a.dec,
            a.enc,
            b.dec,
            b.enc,
            ids_a=a.alive_ids,
            ids_b=b.alive_ids,
            threshold=threshold,
        )
    )
    signed = match_rows(a.dec, b.dec, absolute=False)
    values = {
        "mean_max_cos": (
            (decoder.a_to_b + encoder.a_to_b) / 2,
            (decoder.b_to_a + encoder.b_to_a) / 2,
        ),
        "mean_max_cos_decoder": tuple(decoder),
        "mean_max_cos_encoder": tuple(encoder),
        "fraction_paired": paired,
        "fraction_paired_symmetrised": paired,
        "pw_mcc_signed": _both_sides(signed.partner, signed.similarity),
        "pw_mcc_absolute": _both_sides(
            everything.partner, everything.decoder_similarity
        ),
        "shared": (everything.shared, everything.shared_b),
        "shared_alive": _shares_of_smaller(alive, a, b),
    }
    return PairFigures(
        values={
            name: (own.float(), other.float()) for name, (own, other) in values.items()
        },
        shared=(everything.shared, everything.shared_b),
        shared_alive=(alive.shared, alive.shared_b),
    )


def _both_sides(partner: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Return matched similarities by A's latents and by B's, for a square matching."""
    by_b = torch.empty_like(similarity)
    by_b[partner] = similarity
    return similarity, by_b


def _shares_of_smaller(
    shared: SharedLatents, a: Weights, b: Weights
) -> tuple[Tensor, Tensor]:
    """
    Return arrays over the alive latents of A and of B whose means are ``fraction``.

    Each mean is over that SAE's own alive latents, so it is scaled to the
    smaller count of the two.
    """
    if shared.denominator == 0:
        return torch.empty(0), torch.empty(0)
    mask_a = shared.shared[a.alive].float()
    mask_b = shared.shared_b[b.alive].float()
    return (
        mask_a * (len(mask_a) / shared.denominator),
        mask_b * (len(mask_b) / shared.denominator),
    )
