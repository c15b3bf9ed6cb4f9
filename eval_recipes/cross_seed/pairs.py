"""What is measured on two SAEs: one array over latents for each metric and side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eval_recipes.cross_seed.config import CrossSeedEvalConfig
from eval_recipes.cross_seed.weights import Weights
from saereg_plugin.metrics import (
    Matching,
    match_many,
    match_rows,
    mean_max_cos,
    seen_from_b,
    shared_mask,
    with_latent_ids,
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
class Match:
    """Partners of one SAE's latents in another, by latent id, with what follows."""

    decoder: Matching
    encoder: Matching
    shared: Tensor
    """[d_sae] bool."""

    @classmethod
    def of(cls, decoder: Matching, encoder: Matching, *, threshold: float) -> Match:
        """Combine two matchings by the same latent ids."""
        return cls(decoder, encoder, shared_mask(decoder, encoder, threshold=threshold))


@dataclass(frozen=True)
class PairFigures:
    """
    Figures of the pair (A, B).

    ``values[metric]`` holds one array over A's latents and one over B's; the
    metric is the mean of its side's array, or of both means if ``SYMMETRIC``.
    They are empty where the metric is not defined (no alive latent on one side).
    """

    values: Mapping[str, tuple[Tensor, Tensor]]
    match: tuple[Match, Match]
    """All latents matched, by the ids of A and by those of B."""
    match_alive: tuple[Match, Match]
    """Latents that are not alive left out of either SAE before matching."""
    gaps: Mapping[str, float]
    """What each matching's total similarity may lack of the optimum, as certified."""
    relative_gaps: Mapping[str, float]
    """The same over that total."""

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
    best_decoder = mean_max_cos(a.dec, b.dec, unit=True)
    best_encoder = mean_max_cos(a.enc, b.enc, unit=True)
    paired = (best_decoder.a_to_b > threshold, best_decoder.b_to_a > threshold)
    decoder, encoder, decoder_alive, encoder_alive = _match(a, b, config)
    signed = _signed(a, b, decoder, config)
    match = _both_sides(decoder, encoder, b, threshold=threshold)
    match_alive = _both_sides(decoder_alive, encoder_alive, b, threshold=threshold)
    values = {
        "mean_max_cos": (
            (best_decoder.a_to_b + best_encoder.a_to_b) / 2,
            (best_decoder.b_to_a + best_encoder.b_to_a) / 2,
        ),
        "mean_max_cos_decoder": tuple(best_decoder),
        "mean_max_cos_encoder": tuple(best_encoder),
        "fraction_paired": paired,
        "fraction_paired_symmetrised": paired,
        "pw_mcc_signed": (
            signed.similarity,
            seen_from_b(signed, n_b=len(b.dec)).similarity,
        ),
        "pw_mcc_absolute": tuple(side.decoder.similarity for side in match),
        "shared": tuple(side.shared for side in match),
        "shared_alive": _shares_of_smaller(match_alive, a, b),
    }
    matchings = {
        "decoder": decoder,
        "encoder": encoder,
        "decoder_signed": signed,
        "decoder_alive": decoder_alive,
        "encoder_alive": encoder_alive,
    }
    return PairFigures(
        values={
            name: (own.float(), other.float()) for name, (own, other) in values.items()
        },
        match=match,
        match_alive=match_alive,
        gaps={name: found.gap for name, found in matchings.items()},
        relative_gaps={name: found.relative_gap for name, found in matchings.items()},
    )


def _match(
    a: Weights, b: Weights, config: CrossSeedEvalConfig
) -> tuple[Matching, Matching, Matching, Matching]:
    """Match by |cosine| decoder, encoder, and both again without what is not alive."""
    rows = [(a.dec, b.dec), (a.enc, b.enc)]
    gap = config.matching_relative_gap
    # Filtering nothing cannot change the answer, and matching is what costs time.
    if a.alive.all() and b.alive.all():
        decoder, encoder = match_many(rows, relative_gap=gap)
        return decoder, encoder, decoder, encoder
    alive = [(of_a[a.alive_ids], of_b[b.alive_ids]) for of_a, of_b in rows]
    decoder, encoder, *filtered = match_many(rows + alive, relative_gap=gap)
    decoder_alive, encoder_alive = (
        with_latent_ids(found, a.alive_ids, b.alive_ids, n_a=len(a.dec))
        for found in filtered
    )
    return decoder, encoder, decoder_alive, encoder_alive


def _signed(
    a: Weights, b: Weights, absolute: Matching, config: CrossSeedEvalConfig
) -> Matching:
    """
    Match decoder rows by signed cosine, given the matching by |cosine|.

    No signed total exceeds the best absolute one. So where every matched cosine is
    positive, the absolute matching is the signed one, with the same gap.
    """
    found = absolute.partner >= 0
    partners = b.dec[absolute.partner[found]]
    if bool(((a.dec[found] * partners).sum(dim=1) >= 0).all()):
        return absolute
    gap = config.matching_relative_gap
    return match_rows(a.dec, b.dec, absolute=False, relative_gap=gap)


def _both_sides(
    decoder: Matching, encoder: Matching, b: Weights, *, threshold: float
) -> tuple[Match, Match]:
    n_b = len(b.dec)
    return (
        Match.of(decoder, encoder, threshold=threshold),
        Match.of(
            seen_from_b(decoder, n_b=n_b),
            seen_from_b(encoder, n_b=n_b),
            threshold=threshold,
        ),
    )


def _shares_of_smaller(
    match: tuple[Match, Match], a: Weights, b: Weights
) -> tuple[Tensor, Tensor]:
    """
    Return arrays over the alive latents of A and of B whose means are the shared share.

    Each mean is over that SAE's own alive latents, so it is scaled to the
    smaller count of the two.
    """
    masks = match[0].shared[a.alive].float(), match[1].shared[b.alive].float()
    denominator = min(len(mask) for mask in masks)
    if denominator == 0:
        return torch.empty(0), torch.empty(0)
    return (
        masks[0] * (len(masks[0]) / denominator),
        masks[1] * (len(masks[1]) / denominator),
    )
