"""Shares of the reconstruction that stable and unstable latents carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.cross_seed.aggregate import Figures
from eval_recipes.cross_seed.firing import (
    FIRING_BYTES,
    Firing,
    FiringTally,
    Moments,
    shared_moments,
)
from eval_recipes.results.subject import Subject
from eval_recipes.running.activation_source import place_of
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import Passed, per_context, tally_heldout
from eval_recipes.statistics.interval import (
    NO_VARIATION,
    Array,
    Interval,
    Statistic,
    bootstrap_together,
    explained_variance,
)
from saereg_plugin.metrics import latent_directions

# Values of one chunk of latent activations: 2^23 float32 are 32 MiB, held a few times.
_CHUNK_VALUES = 1 << 23


@dataclass(frozen=True)
class ReconstructionShare:
    """
    Shares on held-out text, special tokens left out; each with an interval over contexts.

    Let z_j be the activation of latent j, d_j its decoder vector, b the decoder's bias, S the
    stable latents, x_S = b + sum_{j in S} z_j d_j, and x_U the same over all others:

    - ``explained_variance_stable``: 1 - sum ||x - x_S||^2 / sum ||x - mean x||^2, with all
      other latents set to zero; ``_unstable`` uses x_U. The two do not add up, and one can be
      below zero.
    - ``variance_share_stable``: sum <x_S - mean x_S, x^ - mean x^> / sum ||x^ - mean x^||^2,
      x^ the whole reconstruction. Stable and unstable shares add up to 1; one can leave
      [0, 1] if the two parts cancel.
    - ``contribution_share_stable``: sum_{j in S} ||z_j d_j||^2 over the same sum of all
      latents. With layer norm, contributions are in the normalised space.

    Random latents would carry a share equal to their share of firings. A share has no
    interval if it is undefined in a resample of the contexts, or equal in all.
    """

    figures: Figures
    n_tokens: int


class _ShareTally:
    """Sums over each context; lists hold one entry a batch of contexts."""

    def __init__(self, sae: SAE[Any], stable: Tensor) -> None:
        if sae.hook_z_reshaping_mode:
            # the activation store has already joined the heads
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        self.stable = stable.to(sae.device)
        directions = latent_directions(sae).double()
        self.square_norms = directions.square().sum(1).to(sae.dtype)
        self.sums: dict[str, list[Array]] = {}

    def update(
        self,
        activations: Tensor,
        keep: Tensor,
        *,
        coded: Callable[[Tensor], object] = lambda _: None,
    ) -> None:
        """
        Add one batch.

        Args:
            activations: (contexts, tokens, d_in).
            keep: (contexts, tokens).
            coded: gets the latent activations of the kept rows [rows, d_sae], chunk by chunk.
        """
        per_chunk = max(1, _CHUNK_VALUES // (len(self.stable) * keep.shape[1]))
        for x, kept in zip(
            activations.split(per_chunk), keep.split(per_chunk), strict=True
        ):
            acts = self._update(x, kept)
            coded(acts[kept.flatten().to(acts.device)])

    def _update(self, activations: Tensor, keep: Tensor) -> Tensor:
        """Add one chunk; return the activations of its latents [rows, d_sae]."""
        x = activations.flatten(0, 1).to(self.sae.dtype)
        z = self.sae.encode(x)
        of_stable = z * self.stable
        whole = self._decode(z, x)
        bias = self._decode(torch.zeros_like(z[:1]), x)
        part = self._decode(of_stable, x) - bias
        rest = whole - bias - part
        exact = x.double()
        if not bool(whole.isfinite().all()):
            raise ValueError("its reconstruction holds NaN or infinity")
        for name, values in {
            "residual_stable": (exact - bias - part).square().sum(-1),
            "residual_unstable": (exact - bias - rest).square().sum(-1),
            "product": (part * whole).sum(-1),
            "square": whole.square().sum(-1),
            "contribution": z.square() @ self.square_norms,
            "contribution_stable": of_stable.square() @ self.square_norms,
            "active": (z != 0).sum(-1),
            "active_stable": (of_stable != 0).sum(-1),
        }.items():
            summed = per_context(values.cpu().view(keep.shape), keep)
            self.sums.setdefault(name, []).append(summed)
        for name, values in (("part", part), ("whole", whole)):
            by_context = values.cpu().view(*keep.shape, -1) * keep[..., None]
            self.sums.setdefault(name, []).append(by_context.sum(1).numpy())
        return z

    def _decode(self, z: Tensor, x: Tensor) -> Tensor:
        # decode uses up the scale that encode stores
        self.sae.run_time_activation_norm_fn_in(x)
        return self.sae.decode(z).to(x.device).double()

    def result(self, passed: Passed, *, seed: int) -> ReconstructionShare:
        """Turn the sums into shares."""
        # each part is let go as it is joined
        sums = {name: np.concatenate(self.sums.pop(name)) for name in list(self.sums)}
        kept, n = passed.kept, len(sums["square"])

        def ratio(part: str, whole: str) -> Statistic:
            return lambda w: _ratio(w @ sums[part], w @ sums[whole])

        def covariance(w: Array) -> Array:
            mean = (w @ sums["whole"]) / (w @ kept.count)[:, None]
            shared = w @ sums["product"] - ((w @ sums["part"]) * mean).sum(-1)
            return _ratio(
                shared, w @ sums["square"] - ((w @ sums["whole"]) * mean).sum(-1)
            )

        def explained(name: str) -> Statistic:
            return lambda w: explained_variance(kept, sums[name], w)

        statistics = {
            "explained_variance_stable": explained("residual_stable"),
            "explained_variance_unstable": explained("residual_unstable"),
            "variance_share_stable": covariance,
            "contribution_share_stable": ratio("contribution_stable", "contribution"),
            "firing_share_stable": ratio("active_stable", "active"),
        }
        once = np.ones((1, n))
        defined = {
            name: statistic
            for name, statistic in statistics.items()
            if not np.isnan(statistic(once)).any()
        }
        intervals = bootstrap_together(defined, n, seed=seed)
        figures: Figures = {
            name: _spread(intervals[name]) if name in intervals else None
            for name in statistics
        }
        return ReconstructionShare(figures, int(kept.count.sum()))


def _spread(found: Interval) -> Interval:
    """Drop an interval of no width, such as that of a share of 0."""
    if found.low is None or found.high is None:
        return found
    if found.high - found.low > 1e-12 * max(1.0, abs(found.value)):
        return found
    return Interval(found.value, None, None, found.n, NO_VARIATION)


def _ratio(part: Array, whole: Array) -> Array:
    """Return part / whole, NaN where the whole is not positive."""
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


class Carried(NamedTuple):
    """What was measured of one SAE on held-out inputs."""

    share: ReconstructionShare
    firing: Firing


class _Tally:
    """Both tallies of one SAE, which share its pass and its codes."""

    def __init__(self, sae: SAE[Any], stable: Tensor, moments: Moments) -> None:
        self.sae = sae
        self.share = _ShareTally(sae, stable)
        self.firing = FiringTally(sae, moments)

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """Add one batch: activations (inputs, rows, d_in), keep (inputs, rows)."""
        self.firing.read(activations, keep)
        self.share.update(activations, keep, coded=self.firing.add)

    def result(self, passed: Passed, *, seed: int) -> Carried:
        """Turn the sums into figures."""
        return Carried(
            self.share.result(passed, seed=seed), self.firing.result(passed, seed=seed)
        )


def reconstruction_shares(
    context: RunContext,
    stable: Mapping[str, Tensor],
    subjects: list[Subject],
    *,
    n_inputs: int,
    n_firings: int = 0,
) -> tuple[dict[str, Carried], dict[str, str]]:
    """
    Measure shares and firing of several SAEs in one pass over the held-out text.

    Args:
        context: the run.
        stable: the stable latents, bool [d_sae], by ``sae_id``.
        subjects: the SAEs.
        n_inputs: contexts or other inputs of the held-out pass, or more.
        n_firings: activations of an SAE in it that are not 0, or more; bounds memory.

    Returns:
        What was measured by ``sae_id``, and the cause for each SAE of which nothing was.
    """
    moments: dict[tuple[object, str], Moments] = {}

    def start(sae_id: str, sae: SAE[Any]) -> _Tally:
        read = shared_moments(moments, place_of(context, sae), sae)
        return _Tally(sae, stable[sae_id], read)

    def held(sae: SAE[Any]) -> int:
        # a part and a whole reconstruction of each input, and second moments, float64
        d_in = int(sae.cfg.d_in)
        return 16 * n_inputs * d_in + 8 * d_in**2 + FIRING_BYTES * n_firings

    return tally_heldout(
        context,
        subjects,
        start,
        lambda tally, passed: tally.result(passed, seed=context.seed),
        extra_bytes=held,
    )
