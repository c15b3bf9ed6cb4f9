"""Sparse activations of the images of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from saereg_plugin.kernels.selected import Selected
from saereg_plugin.metrics.buffer import RowBuffer


@dataclass(frozen=True)
class Codes:
    """
    The activations that are not 0, image by image.

    Attributes:
        selected: pairs (image, latent), sorted by image and then by latent.
        values: activation of each pair, [pairs].
    """

    selected: Selected
    values: Tensor

    @classmethod
    def of(cls, acts: Tensor) -> Codes:
        """
        Return the codes of dense activations [images, d_sae].

        >>> Codes.of(torch.tensor([[0.0, 2.0], [3.0, 0.0]])).values.tolist()
        [2.0, 3.0]
        """
        active = acts != 0
        offsets = functional.pad(active.sum(1).cumsum(0), (1, 0))
        selected = Selected(active.nonzero()[:, 1], offsets, acts.shape[1])
        return cls(selected, acts[active])

    def __len__(self) -> int:
        """Return the number of images."""
        return self.selected.batch

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.selected.d_sae

    @property
    def images(self) -> Tensor:
        """Image of each pair, int64 [pairs]."""
        return self.selected.rows

    @property
    def latents(self) -> Tensor:
        """Latent of each pair, int64 [pairs]."""
        return self.selected.latents

    @cached_property
    def ranks(self) -> Tensor:
        """Rank of each pair in its image, 0 for the largest; ties by latent. int64 [pairs]."""
        by_value = self.values.argsort(descending=True, stable=True)
        order = by_value[self.images[by_value].argsort(stable=True)]
        first = self.selected.row_offsets[self.images]
        ranks = torch.empty_like(order)
        ranks[order] = torch.arange(len(order), device=order.device)
        return ranks - first

    def rows(self, rows: slice) -> Codes:
        """Return the codes of neighbouring images."""
        start, stop, _ = rows.indices(len(self))
        offsets = self.selected.row_offsets[start : stop + 1]
        pairs = slice(int(offsets[0]), int(offsets[-1]))
        part = Selected(self.latents[pairs], offsets - offsets[0], self.d_sae)
        return Codes(part, self.values[pairs])

    def where(self, kept: Tensor) -> Codes:
        """Return the same images with the pairs where ``kept``, bool [pairs]."""
        return Codes(self.selected.keep(kept), self.values[kept])

    def largest(self, k: int) -> Codes:
        """Return the codes cut to the ``k`` largest of each image."""
        return self.where(self.ranks < k)

    def counts(self) -> Tensor:
        """Return in how many images each latent is not 0, int64 [d_sae]."""
        return torch.bincount(self.latents, minlength=self.d_sae)


class CodesBuffer:
    """
    Codes of images that follow each other, on the CPU.

    >>> held = CodesBuffer(2)
    >>> held.add(Codes.of(torch.tensor([[0.0, 2.0]])))
    >>> held.add(Codes.of(torch.tensor([[3.0, 0.0]])))
    >>> held.joined().values.tolist()
    [2.0, 3.0]

    Args:
        d_sae: number of latents.
    """

    def __init__(self, d_sae: int) -> None:
        self._d_sae = d_sae
        self._latents, self._counts, self._values = (RowBuffer() for _ in range(3))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._counts)

    def add(self, codes: Codes) -> None:
        """Add the codes of the next images; of ``d_sae`` latents, on any device."""
        self._latents.add(codes.latents)
        self._counts.add(codes.selected.row_offsets.diff())
        self._values.add(codes.values)

    def joined(self) -> Codes:
        """
        Return the codes of all images.

        Raises:
            ValueError: if nothing was added.
        """
        offsets = functional.pad(self._counts.joined().cumsum(0), (1, 0))
        selected = Selected(self._latents.joined(), offsets, self._d_sae)
        return Codes(selected, self._values.joined())
