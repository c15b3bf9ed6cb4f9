"""Agreement of the cores of several seeds, next to chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from saereg_plugin.metrics.matching import (
    Matching,
    match_rows,
    seen_from_b,
    shared_mask,
)


@dataclass(frozen=True)
class Latents:
    """
    The latents of one SAE.

    Attributes:
        encoder, decoder: [d_sae, d_in].
        core: numbers of the latents in the core, int64.
        alive: latents that fire, bool [d_sae].
    """

    encoder: Tensor
    decoder: Tensor
    core: Tensor
    alive: Tensor

    @property
    def in_core(self) -> Tensor:
        """Latents in the core, bool [d_sae]."""
        mask = torch.zeros(len(self.decoder), dtype=torch.bool)
        mask[self.core] = True
        return mask


def overlap(a: Latents, b: Latents, matching: Matching) -> tuple[float, float]:
    """
    Return the overlap of two cores by matched partner, and that of random cores.

    m / min(|A|, |B|), where m counts the latents of core A whose partner is in core B. Random
    cores of the same sizes are drawn among the latents that fire: a matched pair that fires in
    both SAEs is then in both cores with probability |A| |B| / (alive_A alive_B).

    Args:
        a, b: latents of two SAEs; cores are not empty.
        matching: of all latents, one to one.
    """
    partner = matching.partner
    paired = (partner >= 0).nonzero().squeeze(1)
    both = a.in_core[paired] & b.in_core[partner[paired]]
    firing = a.alive[paired] & b.alive[partner[paired]]
    sizes = len(a.core) * len(b.core)
    alive = max(1, int(a.alive.sum())) * max(1, int(b.alive.sum()))
    least = min(len(a.core), len(b.core))
    return int(both.sum()) / least, int(firing.sum()) * sizes / alive / least


def agreements(
    saes: Mapping[int, Latents],
) -> Iterator[tuple[tuple[int, int] | None, str, float, float | None]]:
    """
    Yield figures of each pair of seeds, and their means, whose pair is None; with their nulls.

    - ``core_agreement``: ``overlap`` by |cos| of decoder rows;
    - ``core_shared``: share of the cores' latents that are shared with the other seed (arXiv
      2603.04198: one partner by decoder and encoder, both |cos| above .7); its null is the
      share among all latents that fire.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for one, two in combinations(sorted(saes), 2):
        a, b = saes[one], saes[two]
        decoder = match_rows(a.decoder, b.decoder)
        encoder = match_rows(a.encoder, b.encoder)
        shared = (
            shared_mask(decoder, encoder),
            shared_mask(
                seen_from_b(decoder, n_b=len(b.decoder)),
                seen_from_b(encoder, n_b=len(b.encoder)),
            ),
        )
        core = torch.cat([shared[0][a.in_core], shared[1][b.in_core]])
        alive = torch.cat([shared[0][a.alive], shared[1][b.alive]])
        values = {
            "core_agreement": overlap(a, b, decoder),
            "core_shared": (_share(core), _share(alive)),
        }
        for name, (value, null) in values.items():
            found.setdefault(name, []).append((value, null))
            yield (one, two), name, value, null
    for name, pairs in found.items():
        value, null = np.mean(pairs, axis=0)
        yield None, name, float(value), float(null)


def _share(mask: Tensor) -> float:
    return float(mask.double().mean()) if len(mask) else 0.0
