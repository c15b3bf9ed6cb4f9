"""Measurements of latents in pairs of SAEs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.results.files import BaseFields, base_fields
from eval_recipes.results.subject import Subject
from saereg_plugin.metrics import (
    Matching,
    encoder_decoder_cosines,
    match_many_twice,
    match_rows,
    row_norms,
    seen_from_b,
    shared_mask,
    unit_rows,
)


@dataclass(frozen=True)
class Weights:
    """Directions and norms of one SAE's vectors."""

    enc: Tensor
    """[d_sae, d_in] encoder vectors as unit rows, float32."""
    dec: Tensor
    """[d_sae, d_in] decoder vectors as unit rows, float32."""
    decoder_norms: Tensor
    """[d_sae] norms of the decoder vectors, in the units of the weights."""
    cosines: Tensor
    """[d_sae] cosine of each latent's encoder and decoder vector."""
    alive: Tensor
    """[d_sae] bool: the cosine exceeds the alive threshold."""

    @classmethod
    def of(cls, W_enc: Tensor, W_dec: Tensor, *, alive_threshold: float) -> Weights:
        """Take SAELens' ``W_enc`` [d_in, d_sae] and ``W_dec`` [d_sae, d_in]."""
        rows = W_dec.detach().cpu().float()
        enc, dec = unit_rows(W_enc.detach().cpu().T), unit_rows(rows)
        cosines = encoder_decoder_cosines(enc, dec)
        return cls(
            enc.contiguous(), dec, row_norms(rows), cosines, cosines > alive_threshold
        )

    @cached_property
    def alive_ids(self) -> Tensor:
        """Ids of the alive latents."""
        return self.alive.nonzero().flatten()


Shape = tuple[int, int]
"""(d_sae, d_in)."""


@dataclass(frozen=True)
class Loaded:
    """Weights and description of one SAE."""

    subject: Subject
    seed: int
    weights: Weights
    fields: BaseFields

    @property
    def shape(self) -> Shape:
        """(d_sae, d_in)."""
        d_sae, d_in = self.weights.dec.shape
        return d_sae, d_in


def load(subject: Subject, seed: int, config: CrossSeedEvalConfig) -> Loaded:
    """
    Load one SAE and keep its encoder and decoder only.

    A gated SAE's ``W_enc`` is shared by its gate and its magnitudes.

    Raises:
        ValueError: if the weights are not finite, or too few to have a geometry.
    """
    sae = subject.load()
    weights = Weights.of(
        sae.W_enc.data, sae.W_dec.data, alive_threshold=config.alive_threshold
    )
    for name, rows in (("W_enc", weights.enc), ("W_dec", weights.dec)):
        if not rows.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
    if len(weights.dec) < 2:
        raise ValueError("an SAE of one latent has no geometry")
    return Loaded(subject, seed, weights, base_fields(subject, sae))


def unequal_shapes(saes: list[Loaded]) -> dict[str, str]:
    """Return, for each group whose SAEs differ in shape, the reason to refuse it."""
    first: dict[str, Loaded] = {}
    causes: dict[str, str] = {}
    for sae in saes:
        other = first.setdefault(sae.subject.group, sae)
        if other.shape != sae.shape:
            causes[sae.subject.group] = (
                f"SAEs {other.subject.sae_id!r} and {sae.subject.sae_id!r} of group "
                f"{sae.subject.group!r} have (d_sae, d_in) {other.shape} and "
                f"{sae.shape}; expected one shape in a group. Put SAEs of different "
                "width into different groups."
            )
    return causes


Side = Literal[0, 1]

SYMMETRIC = frozenset(
    {
        "mean_max_cos",
        "mean_max_cos_decoder",
        "mean_max_cos_encoder",
        "fraction_paired_symmetrised",
    }
)
"""Metrics that average both sides; others are over one side's latents."""

BY_ENCODER = frozenset({"mean_max_cos_encoder"})
"""Metrics whose partners are matched by encoder rows, not decoder rows."""

UNBOUNDED = frozenset({"pw_mcc_signed"})
"""Metrics whose values can be negative; all others are shares or |cosines|."""


@dataclass(frozen=True)
class Match:
    """Partners of one SAE's latents in another, by latent id."""

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
    """The same with only alive latents matched."""
    gaps: Mapping[str, float]
    """Certified gap of each matching's total similarity to the optimum."""
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

    def cap(self, metric: str, side: Side) -> float:
        """Return the upper bound of the metric's values on that side; the lower is 0."""
        n = [len(values) for values in self.values[metric]]
        # its masks are scaled to the smaller count
        return n[side] / min(n) if metric == "shared_alive" else 1.0


def measure_pair(a: Weights, b: Weights, config: CrossSeedEvalConfig) -> PairFigures:
    """Compute every figure of two SAEs with the same ``d_in``."""
    threshold = config.shared_threshold
    (decoder, decoder_alive), (encoder, encoder_alive) = match_many_twice(
        [(a.dec, b.dec), (a.enc, b.enc)],
        a.alive_ids,
        b.alive_ids,
        relative_gap=config.matching_relative_gap,
        unit=True,
    )
    best_decoder, best_encoder = decoder.best, encoder.best
    paired = (best_decoder.a_to_b > threshold, best_decoder.b_to_a > threshold)
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


def _signed(
    a: Weights, b: Weights, absolute: Matching, config: CrossSeedEvalConfig
) -> Matching:
    """
    Match decoder rows by signed cosine, given the matching by |cosine|.

    No signed total exceeds the best absolute one. So if every matched cosine is positive,
    the absolute matching is also the signed one, with the same gap.
    """
    found = absolute.partner >= 0
    partners = b.dec[absolute.partner[found]]
    if bool(((a.dec[found] * partners).sum(dim=1) >= 0).all()):
        return absolute
    gap = config.matching_relative_gap
    return match_rows(a.dec, b.dec, absolute=False, relative_gap=gap, unit=True)


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
