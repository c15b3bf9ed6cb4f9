"""Bounded pile of the best active tokens of each latent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_NO_LIMIT = 1 << 32


class Found(NamedTuple):
    """Active tokens, one entry each: arrays of equal length."""

    latent: Ints
    key: Ints
    """Rank among the latent's tokens, from 0 to 2^32 - 1; the lowest are kept."""
    token: Ints
    """Number of the token in the text."""
    window: Floats
    """Activations around the token, [n, width]."""

    def at(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Found:
        """Return the entries at an index or mask."""
        return Found(*(values[index] for values in self))


class Pile:
    """
    The ``n`` active tokens of each latent with the lowest keys.

    Tokens are added in the order of the text. Among equal keys the first stay, however the
    tokens are divided into calls. At most 1.5 times as many are held as are kept in the end,
    and one call's.

    Args:
        n_latents: latents of the SAE.
        n: tokens kept for each.
        width: activations kept for each token.
        least_slack: tokens held beyond those, at least, before the others are dropped.
    """

    def __init__(
        self, n_latents: int, n: int, width: int, *, least_slack: int = 1 << 16
    ) -> None:
        self.n = n
        self._limit = np.full(n_latents, _NO_LIMIT if n else 0, np.int64)
        self._most = n_latents * n + max(least_slack, n_latents * n // 2)
        nothing = np.zeros(0, np.int64)
        self._parts = [
            Found(nothing, nothing, nothing, np.zeros((0, width), np.float32))
        ]
        self._held = 0

    def wants(self, latent: Ints, key: Ints) -> NDArray[np.bool_]:
        """Return which tokens may be among those kept."""
        return key < self._limit[latent]

    def add(self, found: Found) -> None:
        """Add tokens that come after all earlier ones."""
        self._parts.append(found)
        self._held += len(found.key)
        if self._held > self._most:
            self._prune()

    def found(self) -> Found:
        """Return the tokens kept, sorted by latent and key."""
        self._prune()
        return self._parts[0]

    def _prune(self) -> None:
        """Drop all but the ``n`` lowest keys of each latent, and note the n-th as its limit."""
        every = Found(*(np.concatenate(column) for column in zip(*self._parts)))
        packed = every.latent << 32 | every.key
        order = np.argsort(packed, kind="stable")
        latent = every.latent[order]
        rank = ranks(latent)
        last = rank == self.n - 1
        self._limit[latent[last]] = every.key[order[last]]
        self._parts = [every.at(order[rank < self.n])]
        self._held = len(self._parts[0].key)


def ranks(groups: NDArray[np.integer]) -> Ints:
    """
    Return the rank of each entry in its group, from 0; equal groups are neighbours.

    >>> ranks(np.array([3, 3, 5, 5, 5])).tolist()
    [0, 1, 0, 1, 2]
    """
    numbers = np.arange(len(groups))
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(starts, append=len(groups))
    return numbers - np.repeat(starts, lengths)
