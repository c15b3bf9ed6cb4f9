"""Class purity of latents, with a held-out class and a permutation floor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saereg_plugin.metrics.codes import Codes


@dataclass(frozen=True)
class ClassTally:
    """
    Counts of the images that each latent fires on, by class; those of two sets add up.

    Attributes:
        counts: images of each class, float64 [d_sae, classes].
        mass: summed activation on each class, float64 [d_sae, classes].
    """

    counts: Tensor
    mass: Tensor

    def __add__(self, other: ClassTally) -> ClassTally:
        return ClassTally(self.counts + other.counts, self.mass + other.mass)

    def __sub__(self, other: ClassTally) -> ClassTally:
        return ClassTally(self.counts - other.counts, self.mass - other.mass)

    @property
    def images(self) -> Tensor:
        """n_j, on how many images each latent fires, float64 [d_sae]."""
        return self.counts.sum(1)

    @property
    def best(self) -> Tensor:
        """c*, the class with most of a latent's images, the first of equals. [d_sae]."""
        return self.counts.argmax(1)

    def binary(self) -> Tensor:
        """Return the share of a latent's images in its class c*; NaN if it never fires."""
        return self.counts.amax(1) / self.images

    def weighted(self) -> Tensor:
        """Return the share of a latent's activation on c*; NaN if it never fires."""
        on_best = self.mass.gather(1, self.best[:, None])[:, 0]
        share = on_best / self.mass.sum(1)
        return torch.where(self.images > 0, share, torch.nan)


def class_tally(codes: Codes, labels: Tensor, n_classes: int) -> ClassTally:
    """
    Count classes of the images on which each latent is not 0 (arXiv 2606.27321).

    Args:
        codes: activations of the images.
        labels: int64 [images].
        n_classes: number of classes.
    """
    place = codes.latents * n_classes + labels[codes.images]
    shape = (codes.d_sae, n_classes)
    values = codes.values.double()
    counts, mass = (
        torch.bincount(place, weights=weights, minlength=shape[0] * shape[1])
        for weights in (torch.ones_like(values), values.abs())
    )
    # without any pair, torch counts in integers
    return ClassTally(counts.double().view(shape), mass.double().view(shape))


def held_out_purity(first: ClassTally, second: ClassTally) -> Tensor:
    """
    Return the purity of a class that other images chose, float64 [d_sae].

    c* is chosen on each half and scored on the other one; hits and images of both add up.
    A latent that fires in one half alone has none: NaN.
    """
    hits = torch.zeros_like(first.images)
    tries = torch.zeros_like(first.images)
    for chosen, scored in ((first, second), (second, first)):
        known = chosen.images > 0
        on_best = scored.counts.gather(1, chosen.best[:, None])[:, 0]
        hits += torch.where(known, on_best, 0)
        tries += torch.where(known, scored.images, 0)
    return torch.where(tries > 0, hits / tries, torch.nan)


def shuffled_labels(labels: Tensor, n: int, *, seed: int) -> list[Tensor]:
    """Return the labels in ``n`` random orders: purity of these is the floor."""
    generator = torch.Generator().manual_seed(seed)
    return [labels[torch.randperm(len(labels), generator=generator)] for _ in range(n)]
