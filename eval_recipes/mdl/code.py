"""Length of quantised codes: who fires, and in which bin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saereg_plugin.metrics import Codes


@dataclass(frozen=True)
class CodeLength:
    """
    Bits of the codes of N rows, with one table of frequencies per latent.

    A latent's code has two parts. Whether it fires costs ``-log2 p`` or ``-log2(1 - p)`` bits on
    each row, p its share of rows. Where it fires, bin b costs ``-log2 q_b`` bits, q_b the bin's
    share of its firings. The mean over rows is ``H_b(p) + p H(bin | fired)``.

    Attributes:
        silent: bits on each row where a latent does not fire, float64 [d_sae].
        firing: bits of firing of each pair, less those of silence, float64 [pairs].
        value: bits of the bin of each pair, float64 [pairs].
    """

    silent: Tensor
    firing: Tensor
    value: Tensor

    def per_latent(self, codes: Codes) -> tuple[Tensor, Tensor]:
        """Return bits a row of each latent for firing and for bins, float64 [d_sae] each."""
        rows = len(codes)
        sums = codes.selected.latent_sums
        return self.silent + sums(self.firing) / rows, sums(self.value) / rows

    def per_context(
        self, codes: Codes, contexts: Tensor, n_contexts: int
    ) -> tuple[Tensor, Tensor]:
        """
        Return bits of the rows of each context for firing and for bins, float64 [contexts] each.

        ``contexts`` has the context of each row.
        """
        rows = torch.bincount(contexts, minlength=n_contexts).double()
        of_pairs = contexts[codes.images]
        firing, value = (
            torch.zeros(n_contexts, dtype=torch.float64).index_add_(0, of_pairs, each)
            for each in (self.firing, self.value)
        )
        return rows * self.silent.sum() + firing, value


def code_length(codes: Codes, numbers: Tensor) -> CodeLength:
    """
    Return the length of codes whose tables are the frequencies of these very rows.

    Args:
        codes: which latents fire on which row.
        numbers: bin of each pair, int64 [pairs].
    """
    fires = codes.counts()
    cells = _cells(codes.latents, numbers)
    in_bin = torch.bincount(cells)[cells].double()
    of_pairs = fires[codes.latents].double()
    silent, firing = _firing(fires.double(), len(codes))
    return CodeLength(silent, firing[codes.latents], (of_pairs / in_bin).log2())


def crossed_bits(
    codes: Codes, numbers: Tensor, contexts: Tensor, n_contexts: int
) -> Tensor:
    """
    Return the bits of each context by tables of the other half of the contexts, float64.

    The halves are the even and the odd contexts. Half a count is added to firing and to silence,
    and to each bin of a latent (Krichevsky and Trofimov), so that nothing costs infinitely many
    bits. How many bins a latent has is known.

    Args:
        codes: which latents fire on which row.
        numbers: bin of each pair, int64 [pairs].
        contexts: context of each row, int64 [rows].
        n_contexts: number of contexts.
    """
    latents, d_sae = codes.latents, codes.d_sae
    bins = _bins_of_latents(latents, numbers, d_sae)
    cells = _cells(latents, numbers)
    n_cells = int(cells.max()) + 1 if len(cells) else 0
    of_pairs = contexts[codes.images]
    rows = torch.bincount(contexts, minlength=n_contexts).double()
    found = torch.zeros(n_contexts, dtype=torch.float64)
    for half in (0, 1):
        own, table = of_pairs % 2 == half, of_pairs % 2 != half
        fires = torch.bincount(latents[table], minlength=d_sae).double()
        in_bin = torch.bincount(cells[table], minlength=n_cells).double()
        silent, firing = _firing(fires + 0.5, int((contexts % 2 != half).sum()) + 1)
        whole = (fires + bins / 2)[latents[own]]
        bits = firing[latents[own]] + (whole / (in_bin[cells[own]] + 0.5)).log2()
        found[half::2] = rows[half::2] * silent.sum()
        found.index_add_(0, of_pairs[own], bits)
    return found


def number_of_bins(numbers: Tensor) -> int:
    """Return the bins between the smallest and the largest number; 0 is none of them."""
    if not len(numbers):
        return 1
    return max(int(numbers.max()), 0) + max(-int(numbers.min()), 0)


def _bins_of_latents(latents: Tensor, numbers: Tensor, d_sae: int) -> Tensor:
    """Return ``number_of_bins`` of each latent, float64 [d_sae]; 1 of one that never fires."""
    ends = torch.zeros(2, d_sae, dtype=torch.int64)
    for side, of in enumerate((numbers, -numbers)):
        ends[side].scatter_reduce_(0, latents, of.clamp(min=0), "amax")
    return ends.sum(0).clamp(min=1).double()


def _cells(latents: Tensor, numbers: Tensor) -> Tensor:
    """Return the number of each pair's (latent, bin) among those that occur, int64 [pairs]."""
    if not len(numbers):
        return latents
    low = int(numbers.min())
    span = int(numbers.max()) - low + 1
    return torch.unique(latents * span + (numbers - low), return_inverse=True)[1]


def _firing(fires: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return bits of silence, and of firing less those of silence, of each latent."""
    share = fires / rows
    zero = torch.zeros_like(share)
    # a latent that always fires is never silent, and one that never fires never fires
    silent = torch.where(share < 1, -torch.log2(1 - share), zero)
    firing = torch.where(share > 0, -torch.log2(share), zero)
    return silent, firing - silent
