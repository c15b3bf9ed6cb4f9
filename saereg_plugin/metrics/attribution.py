"""Attribution of the next-token loss to latents, and its core."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from saereg_plugin.kernels.selected import Selected
from saereg_plugin.metrics.codes import Codes

QUANTILE = 0.99
"""Default q of ``ScoreTally``; ours, because arXiv 2512.24975's is not known."""

Over = Literal["all", "active"]
"""
Tokens of a quantile: all, where a latent that does not fire scores 0, or those where it fires.

"all" is the default, as "over tokens" says nothing else. It weighs how often a latent fires: one
that fires on less than 1 - q of the tokens scores 0.
"""


def next_token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """
    Return -log p of the token after each position, float32 [contexts, size - 1].

    The gradient of their sum over a batch, with respect to activations [contexts, size, d_in],
    holds each token's own gradient: contexts do not read each other.

    Args:
        logits: [contexts, size, V].
        tokens: int64 [contexts, size].
    """
    given = logits[:, :-1].float()
    following = tokens[:, 1:].to(given.device)
    losses = functional.cross_entropy(
        given.flatten(0, 1), following.flatten(), reduction="none"
    )
    return losses.view(following.shape)


def codes_of(z: Tensor) -> Codes:
    """
    Return the codes of activations [tokens, d_sae], dense or sparse COO.

    >>> codes_of(torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse()).latents.tolist()
    [1, 0]
    """
    if not z.is_sparse:
        return Codes.of(z)
    found = z.coalesce()
    rows, latents = found.indices()
    counts = torch.bincount(rows, minlength=z.shape[0])
    offsets = functional.pad(counts.cumsum(0), (1, 0))
    codes = Codes(Selected(latents, offsets, z.shape[1]), found.values())
    return codes.where(found.values() != 0)


def first_order_effects(gradient: Tensor, codes: Codes, directions: Tensor) -> Tensor:
    """
    Return ``g . d_j z_j`` of each active entry, signed, [pairs].

    To first order, the loss falls by it if latent j alone is set to 0 on that token.

    Args:
        gradient: g, of the summed next-token loss with respect to the reconstruction x_hat (or
            to the activations in its place), [tokens, d_in].
        codes: z, of the same tokens.
        directions: d_j, decoder rows [d_sae, d_in].
    """
    dots = codes.selected.dots(gradient.detach().float(), directions.detach().float())
    return dots * codes.values.detach().float()


def token_scores(gradient: Tensor, codes: Codes, directions: Tensor) -> Tensor:
    """
    Return ``|g . d_j / ||d_j||| z_j`` of each active entry, [pairs] (arXiv 2512.24975).

    Not negative: of an activation below 0, which no SAE of SAELens has, it takes the size.
    0 for a decoder row of zeros.

    Args:
        gradient: as for ``first_order_effects``.
        codes: z, of the same tokens.
        directions: d_j, decoder rows [d_sae, d_in].
    """
    effects = first_order_effects(gradient, codes, directions)
    norms = directions.detach().float().norm(dim=1)
    tiny = torch.finfo(torch.float32).tiny
    return effects.abs() / norms.clamp(min=tiny)[codes.latents]


class Ordered:
    """
    Scores of active entries by latent, and the largest of each latent first.

    Args:
        latents: of each entry, int64 [entries].
        scores: not negative, [entries].
        d_sae: number of latents.
    """

    def __init__(self, latents: Tensor, scores: Tensor, d_sae: int) -> None:
        by_score = scores.argsort(descending=True)
        self.order = by_score[latents[by_score].argsort(stable=True)]
        """Entries in this order, int64 [entries]."""
        self.scores = scores[self.order]
        counts = torch.bincount(latents, minlength=d_sae)
        self.offsets = functional.pad(counts.cumsum(0), (1, 0))
        """Latent j has the entries from ``offsets[j]`` to ``offsets[j + 1]``."""

    def quantiles(
        self,
        quantile: float,
        tokens: int,
        *,
        over: Over = "all",
        fires: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """
        Return the quantile of each latent's scores over tokens, float64 [d_sae].

        Interpolated linearly between neighbours, as ``torch.quantile`` does. 0 of a latent that
        never fires.

        Args:
            quantile: q, in [0, 1].
            tokens: number of tokens, each as often as it counts.
            over: see ``Over``.
            fires: tokens on which each latent fires, if not all of them are among the entries.
            weights: how often each entry counts, int64 [entries], in the order of ``order``.
        """
        if weights is None:
            sums = torch.arange(len(self.scores) + 1, device=self.scores.device)
        else:
            sums = functional.pad(weights.cumsum(0), (1, 0))
        first, end = sums[self.offsets[:-1]], sums[self.offsets[1:]]
        held = end - first
        known = held if fires is None else fires
        n = known if over == "active" else torch.full_like(known, tokens)
        place = quantile * (n - 1).clamp(min=0).double()
        low = place.floor()
        # ranks from the largest, of the neighbours below and above the place
        below = n - 1 - low.long()
        above = (below - 1).clamp(min=0)
        values = functional.pad(self.scores.double(), (0, 1))

        def ranked(rank: Tensor) -> Tensor:
            there = (rank >= 0) & (rank < held)
            found = torch.searchsorted(sums[1:].contiguous(), first + rank, right=True)
            return torch.where(there, values[found.clamp(max=len(self.scores))], 0)

        share = place - low
        return (1 - share) * ranked(below) + share * ranked(above)


class ScoreTally:
    """
    Quantile of each latent's scores over a stream of tokens, exact.

    Keeps the largest scores of each latent that an upper quantile can need: fewer than
    ``(1 - q) tokens + 2`` of each latent, never more than twice the entries that are needed or
    were read.

    Args:
        d_sae: number of latents.
        tokens: most tokens that will be read.
        quantile: q.

    >>> tally = ScoreTally(2, tokens=4, quantile=0.5)
    >>> codes = codes_of(torch.tensor([[1.0, 0], [2, 0], [3, 5], [0, 0]]))
    >>> tally.update(codes, codes.values)
    >>> tally.quantiles().tolist(), tally.quantiles(over="active").tolist()
    ([1.5, 0.0], [2.0, 5.0])
    """

    def __init__(self, d_sae: int, *, tokens: int, quantile: float = QUANTILE) -> None:
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile {quantile} is not between 0 and 1")
        self.d_sae, self.most, self.quantile = d_sae, tokens, quantile
        self.tokens = 0
        """Tokens read."""
        self.fires = torch.zeros(d_sae, dtype=torch.int64)
        """Tokens on which each latent fired."""
        self._needed = tokens - int(quantile * (tokens - 1)) + 1
        self._latents = [torch.zeros(0, dtype=torch.int64)]
        self._scores = [torch.zeros(0)]
        self._held = self._pruned = 0

    @property
    def entries(self) -> int:
        """Scores that are held."""
        return self._held

    def update(self, codes: Codes, scores: Tensor) -> None:
        """
        Add tokens with the scores of their active entries, [pairs].

        Raises:
            ValueError: if a score is not finite, or more tokens come than were announced.
        """
        if not bool(scores.isfinite().all()):
            raise ValueError("a score is NaN or infinite")
        self.tokens += len(codes)
        if self.tokens > self.most:
            raise ValueError(f"{self.tokens} tokens, where {self.most} were announced")
        self.fires += codes.counts().cpu()
        self._latents.append(codes.latents.cpu())
        self._scores.append(scores.detach().float().cpu())
        self._held += len(scores)
        # when the entries have doubled, so that sorting costs little for each
        if self._held > 2 * max(self._pruned, 1 << 16):
            self._prune()

    def quantiles(self, *, over: Over = "all") -> Tensor:
        """
        Return each latent's score over the tokens read so far, float64 [d_sae].

        Raises:
            ValueError: if no token was read.
        """
        if not self.tokens:
            raise ValueError("no token was read")
        ordered = self._prune()
        return ordered.quantiles(
            self.quantile, self.tokens, over=over, fires=self.fires
        )

    def _prune(self) -> Ordered:
        """Keep the largest entries of each latent; return them."""
        latents, scores = torch.cat(self._latents), torch.cat(self._scores)
        found = Ordered(latents, scores, self.d_sae)
        latents = latents[found.order]
        rank = torch.arange(len(latents)) - found.offsets[latents]
        kept = rank < self._needed
        self._latents, self._scores = [latents[kept]], [found.scores[kept]]
        self._held = self._pruned = int(kept.sum())
        return Ordered(self._latents[0], self._scores[0], self.d_sae)


def ranking(scores: Tensor) -> Tensor:
    """
    Return the latents with a positive score, the largest first; ties by number. int64.

    >>> ranking(torch.tensor([1.0, 0.0, 3.0, 3.0])).tolist()
    [2, 3, 0]
    """
    order = scores.argsort(descending=True, stable=True)
    return order[scores[order] > 0]


def cumulative_shares(scores: Tensor) -> Tensor:
    """
    Return the share of the total that the first 1, 2, ... latents of the ranking carry, float64.

    >>> cumulative_shares(torch.tensor([1.0, 0.0, 3.0])).tolist()
    [0.75, 1.0]
    """
    sums = scores[ranking(scores)].double().cumsum(0)
    return sums / sums[-1:]


def smallest_core(scores: Tensor, share: float) -> Tensor:
    """
    Return the smallest prefix of the ranking that reaches a share of the total, int64.

    The largest score first; empty where no score is positive.

    Args:
        scores: of each latent, [d_sae]; those below 0 count as 0.
        share: in (0, 1].

    >>> smallest_core(torch.tensor([1.0, 0.0, 3.0]), 0.75).tolist()
    [2]
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is not above 0 and up to 1")
    order = ranking(scores)
    # sums that differ by rounding alone are equal
    reached = cumulative_shares(scores) >= share - 1e-12
    return order[: int((~reached).sum()) + 1]
