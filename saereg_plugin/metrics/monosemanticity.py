"""Monosemanticity score of latents, exact in one pass over non-zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saereg_plugin.metrics.codes import Codes


@dataclass(frozen=True)
class ScoreSums:
    """
    Sums over images from which the scores follow; those of two sets of images add up.

    All are float64 but the counts.

    Attributes:
        images: number of images N.
        embedding: E, sum of the unit embeddings, [d].
        total: u, sum of each latent's activations, [d_sae].
        square: v, sum of their squares, [d_sae].
        weighted: w, sum of activation times unit embedding, [d_sae, d].
        lowest: each latent's smallest activation, zeros included, [d_sae].
        at_lowest: number of images at that activation, int64 [d_sae].
    """

    images: int
    embedding: Tensor
    total: Tensor
    square: Tensor
    weighted: Tensor
    lowest: Tensor
    at_lowest: Tensor

    def __add__(self, other: ScoreSums) -> ScoreSums:
        lowest = torch.minimum(self.lowest, other.lowest)
        return ScoreSums(
            self.images + other.images,
            self.embedding + other.embedding,
            self.total + other.total,
            self.square + other.square,
            self.weighted + other.weighted,
            lowest,
            self._at(lowest) + other._at(lowest),
        )

    def without(self, part: ScoreSums) -> ScoreSums:
        """Return the sums without a part of the images; ``lowest`` stays that of all."""
        return ScoreSums(
            self.images - part.images,
            self.embedding - part.embedding,
            self.total - part.total,
            self.square - part.square,
            self.weighted - part.weighted,
            self.lowest,
            self.at_lowest - part._at(self.lowest),
        )

    def _at(self, lowest: Tensor) -> Tensor:
        return torch.where(self.lowest == lowest, self.at_lowest, 0)

    def scores(self) -> Tensor:
        """
        Return the monosemanticity score of each latent, float64 [d_sae].

        ``MS_j = sum_{n<m} a_n a_m cos(e_n, e_m) / sum_{n<m} a_n a_m``, a scaled to a
        minimum of 0 (arXiv 2504.02821). A latent above its minimum on fewer than two
        images has no pair with a weight: NaN.
        """
        least, n = self.lowest, self.images
        total = self.total - least * n
        square = self.square - 2 * least * self.total + least.square() * n
        weighted = self.weighted - least[:, None] * self.embedding
        weights = total.square() - square
        score = (weighted.square().sum(1) - square) / weights
        return torch.where(n - self.at_lowest >= 2, score, torch.nan)

    def floor(self) -> float:
        """
        Return the mean cosine of two different images, which a random latent has.

        NaN for fewer than two images.
        """
        n = self.images
        pairs = float(n) * (n - 1)
        return (
            (float(self.embedding.square().sum()) - n) / pairs if pairs else torch.nan
        )


def score_sums(codes: Codes, unit: Tensor) -> ScoreSums:
    """
    Return the sums over all images, in time of pairs times d.

    Args:
        codes: activations of the images.
        unit: their unit embeddings, float64 [images, d].
    """
    values = codes.values.double()
    lowest, at_lowest = _lowest(codes)
    return ScoreSums(
        images=len(codes),
        embedding=unit.sum(0),
        total=codes.selected.latent_sums(values),
        square=codes.selected.latent_sums(values.square()),
        weighted=codes.selected.weighted_latents(values, unit),
        lowest=lowest,
        at_lowest=at_lowest,
    )


def _lowest(codes: Codes) -> tuple[Tensor, Tensor]:
    """Return each latent's smallest activation with its number of images."""
    values, counts = codes.values.double(), codes.counts()
    lowest = torch.full((codes.d_sae,), torch.inf, dtype=torch.float64)
    lowest = lowest.to(values.device)
    lowest.scatter_reduce_(0, codes.latents, values, "amin")
    somewhere_off = counts < len(codes)
    lowest = torch.where(somewhere_off, lowest.clamp(max=0), lowest)
    at = (values == lowest[codes.latents]).long()
    zeros = torch.where(lowest == 0, len(codes) - counts, 0)
    return lowest, zeros.index_add_(0, codes.latents, at)


def unit_embeddings(embeddings: Tensor, *, centred: bool = False) -> Tensor:
    """
    Return embeddings [images, d] with rows of norm 1, float64.

    Args:
        embeddings: of an encoder, one row per image.
        centred: subtract the mean over the images first; the floor is then near 0.

    Raises:
        ValueError: for a row of 0, which has no direction.
    """
    rows = embeddings.double()
    if centred:
        rows = rows - rows.mean(0)
    norms = rows.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        first = int((norms[:, 0] > 0).logical_not().nonzero()[0])
        raise ValueError(
            f"the embedding of image {first} is 0 or not finite, so it has no cosines"
        )
    return rows / norms


def left_out_sums(
    codes: Codes, unit: Tensor, blocks: Sequence[slice]
) -> Iterator[ScoreSums]:
    """Yield the sums over all images, then those without each block of images."""
    total = score_sums(codes, unit)
    yield total
    for block in blocks:
        yield total.without(score_sums(codes.rows(block), unit[block]))


def normalised(score: float, floor: float) -> float:
    """
    Return how far a score lies between the floor (0) and 1.

    >>> normalised(0.9, 0.8)
    0.5000000000000001
    """
    return (score - floor) / (1 - floor) if floor < 1 else torch.nan
