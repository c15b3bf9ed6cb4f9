"""Firing, token forms and second moments along the held-out inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.cross_seed.aggregate import Figures
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.running.passes import Passed
from eval_recipes.statistics.ranks import rank_correlation
from eval_recipes.statistics.seeds import bootstrap_mean_interval
from saereg_plugin.metrics import Codes

# Values of one chunk of latent activations: 2^23 float32 are 32 MiB.
_CHUNK_VALUES = 1 << 23
_MOMENT_ROWS = 8192
FIRING_BYTES = 32
"""Memory of one activation that is not 0, joined codes and sorting included."""


@dataclass(frozen=True)
class Firing:
    """
    What the latents of one SAE did on held-out inputs, special tokens left out.

    Attributes:
        rate: share of rows on which each latent is not 0, float64 [d_sae].
        form: surface-form index, float64 [d_sae]: share of a latent's activation on the token
            id on which it fires most often (of several the one with more activation). NaN for
            latents that never fired. None without text.
        form_by_chance: the same after the token ids changed places at random. A latent that
            fired once has 1 in both.
        counts: rows on which each latent fired, int64 [d_sae].
        covariance: of the activations as the SAE reads them, float64 [d_in, d_in].
    """

    rate: Tensor
    counts: Tensor
    form: Tensor | None
    form_by_chance: Tensor | None
    covariance: Tensor


class Moments:
    """
    Second moments of the activations at one point, summed once for all SAEs that read them.

    Every SAE offers each batch under its number, and a number that is known is not added again.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._count = 0
        self._total: Tensor | None = None
        self._square: Tensor | None = None

    def add(self, batch: int, rows: Callable[[], Tensor]) -> None:
        """Add batch number ``batch``, whose kept rows [n, d_in] ``rows`` returns."""
        if batch < self._batches:
            return
        self._batches += 1
        for part in rows().split(_MOMENT_ROWS):
            # float32 products of a chunk, float64 sums: half the time of float64
            square = (part.T @ part).double().cpu()
            total = part.double().sum(0).cpu()
            if self._total is None or self._square is None:
                self._total, self._square = total, square
            else:
                self._total += total
                self._square += square
            self._count += len(part)

    def covariance(self) -> Tensor:
        """
        Return the covariance, float64 [d_in, d_in].

        Raises:
            ValueError: if nothing was added.
        """
        if self._total is None or self._square is None:
            raise ValueError("no rows, so no covariance")
        mean = self._total / self._count
        return self._square / self._count - torch.outer(mean, mean)


class FiringTally:
    """
    Codes of one SAE along the inputs, and the second moments that it reads.

    Args:
        sae: the SAE.
        moments: of its point; shared by all SAEs that read it in one normalisation.
    """

    def __init__(self, sae: SAE[Any], moments: Moments) -> None:
        self.sae = sae
        self._moments = moments
        self._codes: list[Codes] = []
        self._keep: list[Tensor] = []

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """Add one batch: activations (inputs, rows, d_in), keep (inputs, rows)."""
        x = activations[keep.to(activations.device)].to(self.sae.dtype)
        self._moments.add(len(self._keep), lambda: self._as_read(x))
        self._keep.append(keep.cpu())
        step = max(1, _CHUNK_VALUES // int(self.sae.cfg.d_sae))
        self._codes += [_compact(self.sae.encode(part)) for part in x.split(step)]

    def _as_read(self, x: Tensor) -> Tensor:
        """Return the activations in the SAE's own normalisation, which decoder rows are in."""
        normalised = self.sae.run_time_activation_norm_fn_in(x).float()
        # let go of the scale that it stores
        self.sae.run_time_activation_norm_fn_out(normalised)
        return normalised

    def result(self, passed: Passed, *, seed: int) -> Firing:
        """Turn the codes into figures of each latent."""
        codes = Codes.join(self._codes)
        counts = codes.counts()
        form = by_chance = None
        if passed.tokens.numel():
            tokens = passed.tokens[torch.cat(self._keep)].long()
            form = surface_forms(codes, tokens)
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(tokens), generator=generator)
            by_chance = surface_forms(codes, tokens[order])
        return Firing(
            rate=counts.double() / len(codes),
            counts=counts,
            form=form,
            form_by_chance=by_chance,
            covariance=self._moments.covariance(),
        )


def _compact(acts: Tensor) -> Codes:
    """Return codes on the CPU with float32 values."""
    return Codes.of(acts.float().cpu())


def surface_forms(codes: Codes, tokens: Tensor) -> Tensor:
    """
    Return the share of each latent's activation on its most frequent token id, [d_sae].

    Activation is summed as |z|. NaN for latents that never fired. Of token ids on which it
    fires equally often, the one with the most activation counts.

    Args:
        codes: activations of each row.
        tokens: token id of each row, int64.

    >>> codes = Codes.of(torch.tensor([[1.0], [2.0], [5.0], [0.0]]))
    >>> surface_forms(codes, torch.tensor([7, 7, 9, 9])).tolist()
    [0.375]
    """
    largest = int(tokens.max()) + 1 if len(tokens) else 1
    keys = codes.latents * largest + tokens[codes.images]
    pairs, inverse, times = keys.unique(return_inverse=True, return_counts=True)
    zeros = torch.zeros(len(pairs), dtype=torch.float64)
    mass = zeros.index_add(0, inverse, codes.values.double().abs())
    latents = pairs // largest
    # rows sorted by latent, then times, then mass: the last of each latent is its form
    order = mass.argsort(stable=True)
    order = order[times[order].argsort(stable=True)]
    order = order[latents[order].argsort(stable=True)]
    forms = torch.full((codes.d_sae,), torch.nan, dtype=torch.float64)
    found, sizes = latents[order].unique_consecutive(return_counts=True)
    whole = torch.zeros(codes.d_sae, dtype=torch.float64)
    whole.index_add_(0, latents, mass)
    forms[found] = mass[order[sizes.cumsum(0) - 1]] / whole[found]
    return forms


def firing_figures(
    found: Firing | None,
    stability: Tensor,
    alive: Tensor,
    stable: Tensor,
    config: CrossSeedEvalConfig,
) -> Figures:
    """
    Return how firing and token forms go with stability, over the latents alive by weights.

    Args:
        found: what the latents did; None where it was not measured.
        stability: share of the other seeds that share each latent, [d_sae].
        alive: bool [d_sae].
        stable: bool [d_sae].
        config: settings of the bootstrap.
    """
    names = ("surface_form_stable", "surface_form_unstable")
    figures: Figures = dict.fromkeys(("firing_stability", "surface_form_stability"))
    figures |= {f"{name}{end}": None for name in names for end in ("", "_chance")}
    if found is None:
        return figures
    figures["firing_stability"] = rank_correlation(
        found.rate[alive], stability[alive], config
    )
    if found.form is None or found.form_by_chance is None:
        return figures
    fired = alive & (found.counts > 0)
    figures["surface_form_stability"] = rank_correlation(
        (found.form - found.form_by_chance)[fired], stability[fired], config
    )
    for name, mask in zip(names, (stable & fired, ~stable & fired), strict=True):
        for end, forms in (("", found.form), ("_chance", found.form_by_chance)):
            if mask.any():
                figures[f"{name}{end}"] = bootstrap_mean_interval(
                    [forms[mask].numpy()],
                    n_resamples=config.n_resamples,
                    seed=config.random_seed,
                )
    return figures


def tenths(stability: Tensor, similarity: Tensor, alive: Tensor) -> Tensor:
    """
    Return the tenth by stability of each latent, 1 (least stable) to 10, int64 [d_sae].

    Alive latents are ordered by ``stability`` and where it is equal by ``similarity`` to their
    partners, and cut into ten parts whose sizes differ by at most 1. 0 for other latents.

    >>> tenths(torch.zeros(3), torch.tensor([0.3, 0.1, 0.2]), torch.ones(3).bool()).tolist()
    [7, 1, 4]
    """
    ids = alive.nonzero().flatten()
    order = ids[similarity[ids].argsort(stable=True)]
    order = order[stability[order].argsort(stable=True)]
    parts = torch.zeros(len(alive), dtype=torch.int64)
    parts[order] = torch.arange(len(order)) * 10 // max(1, len(order)) + 1
    return parts


def matched_firing(
    counts: Tensor, alive: Tensor, stable: Tensor, *, seed: int
) -> Tensor:
    """
    Draw alive latents at random until they fire as often as the stable ones, bool [d_sae].

    Args:
        counts: on how many rows each latent fired, int64 [d_sae].
        alive: bool [d_sae].
        stable: bool [d_sae].
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(counts), generator=generator)
    order = order[alive[order]]
    before = counts[order].cumsum(0) - counts[order]
    chosen = torch.zeros_like(stable)
    chosen[order[before < counts[stable & alive].sum()]] = True
    return chosen


def shared_moments(
    moments: dict[tuple[object, str], Moments], place: object, sae: SAE[Any]
) -> Moments:
    """Return the moments of what an SAE reads, the same for SAEs that read the same."""
    key = (place, str(sae.cfg.normalize_activations))
    return moments.setdefault(key, Moments())
