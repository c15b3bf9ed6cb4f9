"""Explained variance, L0 and alive latents of every SAE on held-out inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import Passed, per_context, tally_heldout
from eval_recipes.statistics.interval import (
    ONE_SAMPLE,
    Array,
    Interval,
    Statistic,
    bootstrap_together,
    explained_variance,
)
from saereg_plugin.errors import InputError
from saereg_plugin.kernels.inference import TopKEncoder, can_encode_top_k

# Values of one chunk of latent activations: 2^25 float32 are 128 MiB.
_CHUNK_VALUES = 1 << 25


@dataclass(frozen=True)
class HeldOut:
    """
    Figures of one SAE on held-out inputs; special tokens count only where named.

    An input is a context of text, an image, a clip or an item of arrays, and its rows are
    tokens, patches or frames; padding does not count. Position 0 of a context of text holds
    over a third of the activations' variance and most SAEs are trained without it. Every
    interval is a 95 % bootstrap over inputs, and its ``_n`` is the number of inputs; a single
    input has none.

    Attributes:
        explained_variance: 1 - sum ||x - x_hat||^2 / sum ||x - mean x||^2.
        explained_variance_with_bos: the same, special tokens included; None without text.
        mse: squared error a row and dimension.
        l0: mean number of latents that are not zero.
        alive: latents that fired at least once.
        d_sae: all latents.
        n_tokens: rows behind all but ``explained_variance_with_bos``.
        context_size: rows of an input, of inputs that differ the most.
    """

    explained_variance: float
    explained_variance_ci_low: float | None
    explained_variance_ci_high: float | None
    explained_variance_n: int
    mse: float
    l0: float
    l0_ci_low: float | None
    l0_ci_high: float | None
    l0_n: int
    alive: int
    d_sae: int
    n_tokens: int
    context_size: int
    explained_variance_with_bos: float | None = None
    explained_variance_with_bos_ci_low: float | None = None
    explained_variance_with_bos_ci_high: float | None = None
    explained_variance_with_bos_n: int = 0


class HeldOutError(RuntimeError):
    """An SAE has no held-out figures; the message names it and says why."""


class HeldOutTable(dict[str, HeldOut]):
    """
    Held-out figures by ``sae_id``; ``failures`` holds the cause where there are none.

    Looking up an SAE that failed raises ``HeldOutError`` with the cause.
    """

    def __init__(
        self, figures: Mapping[str, HeldOut], failures: Mapping[str, str]
    ) -> None:
        super().__init__(figures)
        self.failures: dict[str, str] = dict(failures)

    def __missing__(self, sae_id: str) -> HeldOut:
        cause = self.failures.get(sae_id)
        if cause is None:
            raise KeyError(sae_id)
        raise HeldOutError(f"SAE {sae_id!r} has no held-out figures: {cause}")


class HeldOutTally:
    """
    Running figures of one SAE; lists hold one entry a batch of contexts.

    Args:
        sae: the SAE.
        sparse: whether its codes are made sparse where they can be (``TopKEncoder``).
    """

    def __init__(self, sae: SAE[Any], *, sparse: bool = True) -> None:
        if sae.hook_z_reshaping_mode:
            # The activation store has already joined the heads.
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        sparse = sparse and can_encode_top_k(sae)
        self._encoder = TopKEncoder(sae) if sparse else None
        self.fired = torch.zeros(int(sae.cfg.d_sae), dtype=torch.bool)
        self.residual: list[Array] = []
        self.residual_special: list[Array] = []
        self.nonzero: list[Array] = []

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """
        Add one batch.

        Args:
            activations: shape (contexts, tokens, d_in).
            keep: True where the token is not special, shape (contexts, tokens).

        Raises:
            ValueError: if a reconstruction is not finite.
        """
        flat = activations.flatten(0, 1)
        kept = keep.flatten()
        rows = max(1, _CHUNK_VALUES // len(self.fired))
        residuals: list[Tensor] = []
        counts: list[Tensor] = []
        for x, is_kept in zip(flat.split(rows), kept.split(rows), strict=True):
            decoded, count = self._pass(x.to(self.sae.dtype), is_kept)
            error = x.double() - decoded.to(x.device).double()
            residuals.append(error.square().sum(-1).cpu())
            counts.append(count.cpu())
        residual = torch.cat(residuals).view_as(keep)
        if not bool(residual.isfinite().all()):
            raise ValueError("its reconstruction holds NaN or infinity")
        nonzero = torch.cat(counts).view_as(keep)
        self.residual.append(per_context(residual, keep))
        self.residual_special.append(per_context(residual, ~keep))
        self.nonzero.append(per_context(nonzero, keep))

    def _pass(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstruction and number of active latents of each row; note what fired."""
        if self._encoder is None:
            acts = self.sae.encode(x)
            active = (acts != 0).cpu()
            self.fired |= active[kept].any(0)
            return self.sae.decode(acts), active.sum(-1)
        selected, acts = self._encoder.active(x)
        fired = selected.latents[kept.to(x.device)[selected.rows]]
        self.fired[fired.cpu()] = True
        return self.sae.decode(selected.to_coo(acts)), selected.row_offsets.diff()

    def figures(self, passed: Passed, *, seed: int) -> HeldOut:
        """Turn the sums into figures, given those of the activations themselves."""
        kept, special = passed.kept, passed.special
        residual = np.concatenate(self.residual)
        nonzero = np.concatenate(self.nonzero)
        tokens = float(kept.count.sum())
        statistics: dict[str, Statistic] = {
            "explained_variance": lambda w: explained_variance(kept, residual, w),
            "l0": lambda w: (w @ nonzero) / (w @ kept.count),
        }
        if special is not None:
            everything = kept + special
            residual_all = residual + np.concatenate(self.residual_special)
            statistics["explained_variance_with_bos"] = lambda w: explained_variance(
                everything, residual_all, w
            )
        intervals = bootstrap_together(statistics, len(residual), seed=seed)
        figures: dict[str, Any] = {}
        for name, interval in intervals.items():
            low, high = _ends(interval)
            ends = {f"{name}_ci_low": low, f"{name}_ci_high": high}
            figures |= {name: interval.value, **ends, f"{name}_n": interval.n}
        return HeldOut(
            **figures,
            mse=float(residual.sum()) / (tokens * kept.total.shape[1]),
            alive=int(self.fired.sum()),
            d_sae=len(self.fired),
            n_tokens=int(tokens),
            context_size=passed.context_size,
        )


def _ends(found: Interval) -> tuple[float | None, float | None]:
    """
    Return the ends of a figure's interval; a single input has none.

    Raises:
        ValueError: if the figure has no value for all inputs or for some resamples of them.
    """
    if found.reason == ONE_SAMPLE and not math.isnan(found.value):
        return None, None
    return found.ends


def _check_unique_ids(subjects: list[Subject]) -> None:
    owners: dict[str, Subject] = {}
    for subject in subjects:
        other = owners.setdefault(subject.sae_id, subject)
        if other is not subject:
            raise InputError(
                f"SAE id {subject.sae_id!r} is in release {other.release!r} and "
                f"in release {subject.release!r}; expected ids that differ within "
                "one run. Evaluate the releases in separate runs."
            )


def heldout_of(context: RunContext) -> HeldOutTable:
    """Return the held-out figures of every subject of the run, measured on first use."""
    run = context.whole or context
    if "heldout" not in run.measured:
        run.measured["heldout"] = measure_heldout(run)
    return run.measured["heldout"]


def measure_heldout(context: RunContext) -> HeldOutTable:
    """
    Measure every subject on its held-out inputs; one pass for SAEs on one source.

    Memory: one batch of activations, one chunk of latents, the SAEs that share
    a pass, and ``d_in`` float64 an input and point. An SAE that fails is recorded in the
    table's ``failures``; the others are measured.

    Raises:
        InputError: if two subjects have one id.
    """
    _check_unique_ids(context.subjects)
    figures, failures = tally_heldout(
        context,
        context.subjects,
        lambda _, sae: HeldOutTally(sae),
        lambda tally, passed: tally.figures(passed, seed=context.seed),
    )
    return HeldOutTable(figures, failures)
