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
from saereg_plugin.metrics.codes import Codes
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
    """Entries of one SAE; lists hold one item a batch of contexts."""

    def __init__(self, sae: SAE[Any], *, at: At) -> None:
        if sae.hook_z_reshaping_mode:
            # the heads are joined here
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        self.sae_id = ""
        self.directions = latent_directions(sae).float()
        self._at = at
        self._codes: list[Codes] = []
        self._effects: list[Tensor] = []
        self._contexts: list[Tensor] = []
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
        codes, x_hat = self.coded(passes.rows(clean))
        gradient = (
            shared if self._at == "activations" else passes.gradient(clean, x_hat)
        )
        gradient = gradient.to(self.sae.device)
        if not bool(gradient.isfinite().all()):
            raise ValueError("the gradient of the loss holds NaN or infinity")
        effects = first_order_effects(gradient, codes, self.directions)
        self._codes.append(codes.cpu())
        self._effects.append(effects.cpu())
        numbers = torch.arange(len(clean.keep)) + self._first
        self._contexts.append(numbers.repeat_interleave(clean.keep.sum(1).cpu()))
        self._first += len(clean.keep)

    @torch.no_grad()
    def coded(self, rows: Tensor) -> tuple[Codes, Tensor]:
        """Return codes in units of the activations, and x_hat, float32 [rows, d_in]."""
        size = max(1, _CHUNK_VALUES // len(self.directions))
        parts: list[Codes] = []
        decoded: list[Tensor] = []
        for x in rows.to(self.sae.device).split(size):
            found = coded(self.sae, self.directions, x)
            scale = found.factors[found.codes.images]
            parts.append(Codes(found.codes.selected, found.codes.values * scale))
            decoded.append(found.x_hat.float())
        return Codes.join(parts), torch.cat(decoded)

    def result(self) -> Entries:
        """Return the entries of all contexts."""
        codes, self._codes = self._codes, []
        effects, self._effects = self._effects, []
        return Entries(
            codes=Codes.join(codes),
            effects=torch.cat(effects),
            contexts=torch.cat(self._contexts),
            norms=self.directions.norm(dim=1).cpu(),
            n_contexts=self._first,
        )
