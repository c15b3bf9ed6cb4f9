"""Counts and examples of one SAE's latents along the held-out text."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

from eval_recipes.examples import histogram
from eval_recipes.examples.histogram import Histogram
from eval_recipes.examples.options import ExamplesEvalConfig
from eval_recipes.examples.pile import Floats, Found, Ints, Pile, ranks
from saereg_plugin.kernels.inference import TopKEncoder, can_encode_top_k

LARGEST_KEY = (1 << 32) - 1
OVERHEAD = 1.5 * 3
"""Of a pile: its slack, and two copies while it is pruned."""


def bytes_per_latent(options: ExamplesEvalConfig) -> int:
    """Return the memory that a tally takes for each latent of its SAE, at most."""
    entry = 3 * 8 + 4 * options.width
    kept = options.top_examples + options.drawn
    return histogram.BYTES + round(OVERHEAD * kept * entry)


class _Active(NamedTuple):
    """Active tokens of one context."""

    row: Ints
    """Position in the context."""
    latent: Ints
    value: Floats


class ExamplesTally:
    """
    Density, histogram, sums and examples of every latent; only active tokens are touched.

    The SAE encodes one context at a time, so that nothing depends on how contexts come in
    batches. A token is active where the activation is above 0. Special tokens count nowhere.
    """

    sae_id: str = ""
    """Of the SAE, for what is done at the end of the pass."""

    def __init__(self, sae: SAE[Any], options: ExamplesEvalConfig) -> None:
        if sae.hook_z_reshaping_mode:
            # the activation store has already joined the heads
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        self._encoder = TopKEncoder(sae) if can_encode_top_k(sae) else None
        self.options = options
        n_latents = int(sae.cfg.d_sae)
        self.histogram = Histogram(n_latents)
        self.sums = np.zeros(n_latents)
        self.top = Pile(n_latents, options.top_examples, options.width)
        self.drawn = Pile(n_latents, options.drawn, options.width)
        self.lowest = Pile(n_latents, 0, options.width)
        self._contexts = 0

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """
        Add one batch: activations (contexts, tokens, d_in), keep (contexts, tokens).

        Raises:
            ValueError: if an activation of a latent is not finite.
        """
        for x, kept in zip(activations, keep, strict=True):
            self._add(self.encoded(x, kept))
            self._contexts += 1

    @property
    def ranked(self) -> Histogram:
        """Counts of the activations among which examples are in a quantile band."""
        return self.histogram

    def peak_values(self, found: Found) -> Floats:
        """Return the activation that each entry was chosen for."""
        return found.window[:, self.options.tokens_before]

    def encoded(self, x: Tensor, keep: Tensor) -> Tensor:
        """
        Return latent activations [rows, d_sae], 0 in rows that do not count.

        Raises:
            ValueError: if an activation is not finite.
        """
        encode = self.sae.encode if self._encoder is None else self._encoder
        latents = encode(x.to(self.sae.dtype)).float()
        if latents.is_sparse:
            latents = latents.to_dense()
        latents = latents * keep.to(latents.device)[:, None]
        if not bool(latents.amax().isfinite()):
            raise ValueError("its latent activations hold NaN or infinity")
        return latents

    def _add(self, latents: Tensor) -> None:
        """Add one context, latent activations [tokens, d_sae]."""
        row, latent = (latents > 0).nonzero(as_tuple=True)
        value = latents[row, latent].cpu().numpy()
        active = _Active(row.cpu().numpy(), latent.cpu().numpy(), value)
        self.histogram.add(active.latent, value)
        self.sums += np.bincount(active.latent, value, minlength=len(self.sums))
        first = self._contexts * len(latents)
        drawn = draws(active.latent, first + active.row, seed=self.options.random_seed)
        wanted = self.drawn.wants(active.latent, drawn)
        self._keep(self.drawn, active, drawn, wanted, latents)
        # positive floats are in the order of their bits
        order = LARGEST_KEY - value.view(np.int32).astype(np.int64)
        peaks = _first_lowest(active.latent, order, self.top)
        self._keep(self.top, active, order, peaks, latents)

    def _keep(
        self,
        pile: Pile,
        active: _Active,
        key: Ints,
        chosen: NDArray[np.bool_] | NDArray[np.intp],
        latents: Tensor,
    ) -> None:
        row, latent = active.row[chosen], active.latent[chosen]
        if len(row) == 0:
            return
        token = self._contexts * len(latents) + row
        window = _windows(latents, row, latent, self.options)
        pile.add(Found(latent, key[chosen], token, window))


def _first_lowest(latent: Ints, key: Ints, pile: Pile) -> NDArray[np.intp]:
    """Return the index of each latent's lowest key that a pile wants; the first of equal ones."""
    wanted = np.flatnonzero(pile.wants(latent, key))
    order = np.argsort(latent[wanted] << 32 | key[wanted], kind="stable")
    best = wanted[order]
    return best[ranks(latent[best]) == 0]


def _windows(
    latents: Tensor, row: Ints, latent: Ints, options: ExamplesEvalConfig
) -> Floats:
    """Return activations [n, width] of latents around rows; 0 beyond the context's ends."""
    offsets = torch.arange(-options.tokens_before, options.tokens_after + 1)
    rows = torch.from_numpy(row)[:, None] + offsets
    inside = (rows >= 0) & (rows < len(latents))
    clamped = rows.clamp(0, len(latents) - 1).to(latents.device)
    columns = torch.from_numpy(latent)[:, None].to(latents.device)
    return (latents[clamped, columns].cpu() * inside).numpy()


def draws(latent: Ints, token: Ints, *, seed: int) -> Ints:
    """
    Return a pseudo-random number below 2^32 for each latent and token.

    The finaliser of SplitMix64; the tokens of lowest numbers are a random sample.
    """
    with np.errstate(over="ignore"):
        mixed = _mix(token.astype(np.uint64) + _mix(np.uint64(seed)))
        mixed = _mix(mixed ^ _mix(latent.astype(np.uint64) + np.uint64(1 << 40)))
    return (mixed >> np.uint64(32)).astype(np.int64)


def _mix(value: Any) -> Any:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
