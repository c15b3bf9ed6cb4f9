"""Scores of latents, and the cores that carry a share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval_recipes.attribution.options import AttributionEvalConfig
from eval_recipes.attribution.tally import Entries
from eval_recipes.statistics.blocks import blocks_of, half_interval, halves_of
from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.ranks import rank_correlation
from saereg_plugin.metrics.attribution import Ordered, ranking, smallest_core

Figures = dict[str, Interval | None]

RANKINGS = ("score", "frequency", "contribution")
"""By attribution, by tokens on which a latent fires, and by the mean of ``||z_j d_j||^2``."""

SHARES = (50, 90, 99)
"""Per cent of the total score that a core reaches."""

_CORES = {f"core_{share}": share / 100 for share in SHARES}


@dataclass(frozen=True)
class Cores:
    """
    Scores and cores of one SAE.

    Attributes:
        values: of each ranking, float64 [d_sae]: score, tokens on which a latent fires, and
            mean ``||z_j d_j||^2`` a token.
        effect: rise of the loss per token without each latent, to first order, float64 [d_sae].
        members: the core at ``overlap_share``, and as many first latents of the other
            rankings, bool [d_sae].
        halves: the same of random halves of the contexts, bits [halves, bytes].
        blocks: blocks of contexts, of which a half has half.
        figures: metrics.
        rows: tokens.
        n_contexts: contexts.
    """

    values: Mapping[str, Tensor]
    effect: Tensor
    members: Mapping[str, Tensor]
    halves: Mapping[str, NDArray[np.uint8]]
    blocks: int
    figures: Figures
    rows: int
    n_contexts: int

    @property
    def fires(self) -> Tensor:
        """Which latents fire, bool [d_sae]."""
        return self.values["frequency"] > 0

    def of_halves(self, name: str) -> Tensor:
        """Return the members by a ranking of each half, bool [halves, d_sae]."""
        bits = np.unpackbits(self.halves[name], axis=1, count=len(self.fires))
        return torch.from_numpy(bits.astype(bool))


def measure_cores(entries: Entries, options: AttributionEvalConfig) -> Cores:
    """Return scores and cores of one SAE, with a jackknife over halves of the contexts."""
    n = entries.n_contexts
    weighed = _Weighed(entries, options)
    values = weighed.values(torch.ones(n, dtype=torch.int64))
    sizes = _sizes(values)
    members = _members(values, options.overlap_share)
    of_halves: dict[str, list[float]] = {name: [] for name in sizes}
    bits: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in RANKINGS}
    for kept in halves_of(
        n, options.n_blocks, draws=options.n_resamples, seed=options.random_seed
    ):
        found = weighed.values(torch.from_numpy(kept).long())
        for name, value in _sizes(found).items():
            of_halves[name].append(value)
        for name, mask in _members(found, options.overlap_share).items():
            bits[name].append(np.packbits(mask.numpy()))
    blocks = len(blocks_of(n, options.n_blocks))
    figures: Figures = {
        name: jackknife(
            value,
            of_halves[name],
            blocks,
            n,
            most=entries.codes.d_sae if name in _CORES else 1,
        )
        for name, value in sizes.items()
    }
    fires = values["frequency"] > 0
    figures["scored"] = _counted(values["score"] > 0, n)
    figures["fired"] = _counted(fires, n)
    for name in RANKINGS[1:]:
        x, y = values["score"][fires], values[name][fires]
        figures[f"rho_{name}"] = rank_correlation(x, y, options)
    return Cores(
        values=values,
        effect=-entries.codes.selected.latent_sums(entries.effects.double())
        / len(entries.codes),
        members=members,
        halves={name: np.stack(each) for name, each in bits.items()},
        blocks=blocks,
        figures=figures,
        rows=len(entries.codes),
        n_contexts=n,
    )


class _Weighed:
    """Values of each ranking where contexts count as often as is given."""

    def __init__(self, entries: Entries, options: AttributionEvalConfig) -> None:
        codes = entries.codes
        self._ordered = Ordered(codes.latents, entries.scores, codes.d_sae)
        order = self._ordered.order
        self._latents = codes.latents[order]
        self._contexts = entries.entry_contexts[order]
        self._squares = entries.squares[order]
        self._rows = torch.bincount(entries.contexts, minlength=entries.n_contexts)
        self._options = options

    def values(self, weights: Tensor) -> dict[str, Tensor]:
        """Return them for int64 weights [contexts]."""
        tokens = int((weights * self._rows).sum())
        of_entries = weights[self._contexts]
        score = self._ordered.quantiles(
            self._options.quantile,
            tokens,
            over=self._options.over,
            weights=of_entries,
        )
        zero = torch.zeros_like(score)
        fires = zero.index_add(0, self._latents, of_entries.double())
        squares = zero.index_add(0, self._latents, of_entries * self._squares)
        contribution = squares / max(tokens, 1)
        return dict(zip(RANKINGS, (score, fires, contribution), strict=True))


def _sizes(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return sizes of cores, and what as large sets by other rankings carry of the score."""
    score = values["score"]
    whole = float(score.sum())
    found: dict[str, float] = {}
    for name, share in _CORES.items():
        found[name] = float(len(smallest_core(score, share)))
    size = int(found["core_90"])
    for name in RANKINGS[1:]:
        first = ranking(values[name])[:size]
        found[f"carried_{name}"] = (
            float(score[first].sum()) / whole if whole else np.nan
        )
    fires = int((values["frequency"] > 0).sum())
    found["carried_random"] = size / fires if whole else np.nan
    return found


def _members(values: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the core, and as many first latents of the other rankings, bool [d_sae]."""
    core = smallest_core(values["score"], share)
    found = {"score": core}
    found |= {name: ranking(values[name])[: len(core)] for name in RANKINGS[1:]}
    nothing = torch.zeros(len(values["score"]), dtype=torch.bool)
    return {name: nothing.index_fill(0, ids, True) for name, ids in found.items()}


def jackknife(
    value: float, halves: Sequence[float], blocks: int, n: int, *, most: float
) -> Interval | None:
    """
    Return a figure in [0, ``most``] with its interval over halves of the contexts.

    No bootstrap: resamples hold fewer different contexts, so that fewer latents fire and their
    rankings are noisier than those of the text itself.

    Args:
        value: the figure; None is returned for NaN.
        halves: the figure of each half.
        blocks: number of blocks of contexts.
        n: number of contexts.
        most: its largest possible value.
    """
    found = half_interval(value, halves, blocks, n)
    if found is None or found.low is None or found.high is None:
        return found
    # the figure itself may be above by rounding
    high = max(found.value, min(float(most), found.high))
    return found._replace(low=max(0.0, found.low), high=high)


def _counted(which: Tensor, n: int) -> Interval:
    """Return a count, which grows with the text, so that no resample tells its spread."""
    reason = "it grows with the text, and a part of it has less text"
    return Interval(float(which.sum()), None, None, n, reason)
