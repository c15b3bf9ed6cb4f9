"""Scores of every active entry of one SAE along the held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.attribution.options import At
from eval_recipes.attribution.passes import LossPasses
from eval_recipes.mdl.tally import coded
from saereg_plugin.finetuning.frozen_model import CleanPass
from saereg_plugin.metrics.attribution import first_order_effects
from saereg_plugin.metrics.buffer import RowBuffer
from saereg_plugin.metrics.codes import Codes, CodesBuffer
from saereg_plugin.metrics.reconstruction import latent_directions

# Values of one chunk of latent activations: 2^23 float32 are 32 MiB, held a few times.
_CHUNK_VALUES = 1 << 23

BYTES_PER_ENTRY = 64
"""Memory of an active entry: codes, effect, score and context, in two orders."""


@dataclass(frozen=True)
class Entries:
    """
    The active entries of one SAE on N rows.

    Attributes:
        codes: what each latent adds along its direction: activations in units of the
            model's own activations (the SAE's, unless it normalises row by row).
        effects: ``g . d_j z_j`` of each entry, [entries].
        contexts: context of each row, ascending, int64 [rows].
        norms: ``||d_j||``, float32 [d_sae].
        n_contexts: number of contexts.
    """

    codes: Codes
    effects: Tensor
    contexts: Tensor
    norms: Tensor
    n_contexts: int

    @cached_property
    def scores(self) -> Tensor:
        """``|g . d_j / ||d_j||| z_j`` of each entry, [entries]."""
        tiny = torch.finfo(torch.float32).tiny
        return self.effects.abs() / self.norms.clamp(min=tiny)[self.codes.latents]

    @cached_property
    def squares(self) -> Tensor:
        """``||z_j d_j||^2`` of each entry, float64 [entries]."""
        norms = self.norms.double()[self.codes.latents]
        return (self.codes.values.double() * norms).square()

    @cached_property
    def entry_contexts(self) -> Tensor:
        """Context of each entry, int64 [entries]."""
        return self.contexts[self.codes.images]


class EntryTally:
    """Entries of one SAE along the text."""

    def __init__(self, sae: SAE[Any], *, at: At) -> None:
        if sae.hook_z_reshaping_mode:
            # the heads are joined here
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        self.sae_id = ""
        self.directions = latent_directions(sae).float()
        self._at = at
        self._codes = CodesBuffer(len(self.directions))
        self._effects, self._contexts = RowBuffer(), RowBuffer()
        self._first = 0

    def update(self, passes: LossPasses, clean: CleanPass, shared: Tensor) -> None:
        """
        Add one batch of contexts.

        Args:
            passes: the model.
            clean: the batch.
            shared: gradient at the activations themselves, [rows, d_in]; of no use, and may be
                empty, where the gradient is taken at the reconstruction.

        Raises:
            ValueError: if the gradient is not finite.
        """
        rows, gradient = passes.rows(clean), shared
        if self._at == "reconstruction":
            gradient = passes.gradient(clean, self.reconstructed(rows))
        if not bool(gradient.isfinite().all()):
            raise ValueError("the gradient of the loss holds NaN or infinity")
        size = self._chunk_rows
        for x, g in zip(rows.split(size), gradient.split(size), strict=True):
            codes = self._coded(x)[0]
            effects = first_order_effects(g.to(self.sae.device), codes, self.directions)
            self._codes.add(codes)
            self._effects.add(effects)
        numbers = torch.arange(len(clean.keep)) + self._first
        self._contexts.add(numbers.repeat_interleave(clean.keep.sum(1).cpu()))
        self._first += len(clean.keep)

    def reconstructed(self, rows: Tensor) -> Tensor:
        """Return x_hat of rows, float32 [rows, d_in]."""
        parts = rows.split(self._chunk_rows)
        return torch.cat([self._coded(x)[1] for x in parts])

    @property
    def _chunk_rows(self) -> int:
        return max(1, _CHUNK_VALUES // len(self.directions))

    @torch.no_grad()
    def _coded(self, x: Tensor) -> tuple[Codes, Tensor]:
        """Return codes in units of the activations, and x_hat, float32 [rows, d_in]."""
        found = coded(self.sae, self.directions, x.to(self.sae.device))
        scale = found.factors[found.codes.images]
        return Codes(
            found.codes.selected, found.codes.values * scale
        ), found.x_hat.float()

    def result(self) -> Entries:
        """Return the entries of all contexts."""
        return Entries(
            codes=self._codes.joined(),
            effects=self._effects.joined(),
            contexts=self._contexts.joined(),
            norms=self.directions.norm(dim=1).cpu(),
            n_contexts=self._first,
        )
