"""How alike two SAEs of one setting are: the four columns of the paper's table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eval_recipes.statistics import Interval, bootstrap_mean_interval
from eval_recipes.studies.mnist.weights import Weights
from saereg_plugin.metrics import (
    PAIRED_THRESHOLD,
    SHARED_THRESHOLD,
    SharedLatents,
    alive_mask,
    mean_max_cos,
    shared_latents,
)

COLUMNS = ("mean_max_cos", "paired", "shared", "shared_alive")
"""As the paper's table has them."""

EXTRA_COLUMNS = ("mean_max_cos_decoder", "mean_max_cos_encoder", "paired_encoder")
"""What the first two columns are made of, and paired by the encoder."""


@dataclass(frozen=True)
class Pair:
    """Two seeds of one setting, matched once."""

    figures: dict[str, Interval]
    """By column, with 95 % intervals over latents; ``shared_alive`` only if any is alive."""
    by_position: float
    """``shared_alive`` as the published notebook computes it; see ``by_position``."""
    shared: SharedLatents
    """All latents matched."""


def measure_pair(
    a: Weights, b: Weights, *, seed: int = 0, n_resamples: int = 1000
) -> Pair:
    """
    Return the figures of SAEs A and B (definitions: ``saereg_plugin.metrics``).

    Mean max cosine averages decoder and encoder and both directions; paired is by the
    decoder, of A's latents. Intervals resample matched latents (A's with their partners),
    for mean max cosine those of each side on their own.
    """
    dec, enc = mean_max_cos(a.dec, b.dec), mean_max_cos(a.enc, b.enc)
    shared = shared_latents(a.dec, a.enc, b.dec, b.enc)
    alive_a = alive_mask(a.enc, a.dec).nonzero().squeeze(1)
    alive_b = alive_mask(b.enc, b.dec).nonzero().squeeze(1)
    alive = shared_latents(a.dec, a.enc, b.dec, b.enc, ids_a=alive_a, ids_b=alive_b)

    def interval(*values: Tensor) -> Interval:
        return bootstrap_mean_interval(
            [v.float().numpy() for v in values], n_resamples=n_resamples, seed=seed
        )

    figures = {
        "mean_max_cos": interval(
            (dec.a_to_b + enc.a_to_b) / 2, (dec.b_to_a + enc.b_to_a) / 2
        ),
        "paired": interval(dec.a_to_b > PAIRED_THRESHOLD),
        "shared": interval(shared.shared),
        "mean_max_cos_decoder": interval(dec.a_to_b, dec.b_to_a),
        "mean_max_cos_encoder": interval(enc.a_to_b, enc.b_to_a),
        "paired_encoder": interval(enc.a_to_b > PAIRED_THRESHOLD),
    }
    if alive.denominator:
        # of the smaller of the two alive sets, whichever side that is
        smaller = (
            alive.shared[alive_a]
            if len(alive_a) <= len(alive_b)
            else alive.shared_b[alive_b]
        )
        figures["shared_alive"] = interval(smaller)
    return Pair(figures, by_position(alive), shared)


def by_position(match: SharedLatents, threshold: float = SHARED_THRESHOLD) -> float:
    """
    Return the shared share as the published notebook has it: partners by list position.

    A rectangular solver lists only the rows it matched, and decoder and encoder can leave
    out different ones: the notebook then compares partners of different latents. It equals
    ``match.fraction`` whenever A has no more latents than B. Reported only to compare with
    the published column; 0 if nothing was matched.
    """
    in_dec, in_enc = match.partner >= 0, match.encoder_partner >= 0
    same = match.partner[in_dec] == match.encoder_partner[in_enc]
    similar = (match.decoder_similarity[in_dec] > threshold) & (
        match.encoder_similarity[in_enc] > threshold
    )
    found = torch.count_nonzero(same & similar)
    return int(found) / match.denominator if match.denominator else 0.0
