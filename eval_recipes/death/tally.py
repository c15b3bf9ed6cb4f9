"""Firing and pre-activations of one SAE along held-out inputs, by latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE, TrainingSAE
from torch import Tensor

from eval_recipes.death.activations import PointSums
from saereg_plugin.mechanics.initialization import geometric_median

_CHUNK_VALUES = 1 << 24
"""Pre-activations held at once."""

Mask = NDArray[np.bool_]


class Extremes:
    """
    Contexts in which each latent fires, and its largest pre-activation, one context left out.

    A latent's state without a context differs from its state with all of them in two contexts
    at most: the only one in which it fires, and that of its largest pre-activation.
    """

    def __init__(self, d_sae: int) -> None:
        self.contexts = torch.zeros(d_sae, dtype=torch.long)
        """Contexts in which the latent fires."""
        self._last = torch.full((d_sae,), -1)
        self._largest = torch.full((d_sae, 2), -torch.inf)
        self._where = torch.full((d_sae, 2), -1)

    @property
    def fired(self) -> Tensor:
        """Latents that fire, bool [d_sae]."""
        return self.contexts > 0

    @property
    def largest(self) -> Tensor:
        """Largest pre-activation of each latent, [d_sae]."""
        return self._largest[:, 0]

    def update(self, first: int, fired: Tensor, largest: Tensor) -> None:
        """
        Add contexts.

        Args:
            first: number of the first of them.
            fired: whether each latent fires in each, bool [contexts, d_sae].
            largest: its largest pre-activation there, [contexts, d_sae].
        """
        numbers = torch.arange(first, first + len(fired))
        self.contexts += fired.sum(0)
        last = torch.where(fired, numbers[:, None], -1).amax(0)
        self._last = torch.maximum(self._last, last)
        values = torch.cat([self._largest, largest.T], dim=1)
        places = numbers.expand(len(self._where), -1)
        places = torch.cat([self._where, places], dim=1)
        self._largest, kept = values.topk(2, dim=1)
        self._where = places.gather(1, kept)

    def events(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield latents and the contexts without which their state may differ."""
        once = (self.contexts == 1).nonzero().squeeze(1)
        yield once, self._last[once]
        seen = (self._where[:, 0] >= 0).nonzero().squeeze(1)
        yield seen, self._where[seen, 0]

    def without(self, latents: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether latents fire without a context each, and their largest then."""
        once = (self.contexts[latents] == 1) & (self._last[latents] == contexts)
        moved = self._where[latents, 0] == contexts
        largest = self._largest[latents]
        return (
            self.fired[latents] & ~once,
            torch.where(moved, largest[:, 1], largest[:, 0]),
        )


@dataclass(frozen=True)
class State:
    """
    State of some latents, all arrays [latents].

    ``fired`` and ``largest`` are of the SAE, ``started`` and ``largest_start`` of its initial
    weights, None without them.
    """

    latents: Tensor
    fired: Tensor
    largest: Tensor
    started: Tensor | None
    largest_start: Tensor | None


class DeathTally:
    """
    Sums of one SAE along held-out inputs.

    Args:
        sae: the SAE.
        start: the SAE before training, or None.
        scale: factor of its activations in training; None estimates it where it is needed.
        sums: of the activations, shared by the SAEs of a point.
    """

    def __init__(
        self,
        sae: SAE[Any],
        start: TrainingSAE[Any] | None,
        *,
        scale: float | None,
        sums: PointSums,
    ) -> None:
        if sae.hook_z_reshaping_mode:
            sae.turn_off_forward_pass_hook_z_reshaping()
        d_sae = int(sae.cfg.d_sae)
        self.sae_id = ""
        self.sae = sae
        self.start = start
        self.sums = sums
        self.end = Extremes(d_sae)
        self.begin = None if start is None else Extremes(d_sae)
        self.gap = torch.full((d_sae,), torch.inf)
        """Smallest distance of a positive pre-activation to what it takes to fire."""
        self.centre: Tensor | None = None
        """Decoder bias at the start, in units of the activations, [d_in]."""
        self._scale = scale
        self._batches = self.seen = 0

    @torch.no_grad()
    def update(self, activations: Tensor, keep: Tensor) -> None:
        """
        Add one batch.

        Args:
            activations: [contexts, tokens, d_in].
            keep: False where a token does not count, bool [contexts, tokens].

        Raises:
            ValueError: if a pre-activation is not finite.
        """
        self.sums.update(self._batches, activations, keep)
        self._batches += 1
        keep = keep.to(activations.device)
        if self.start is not None and self.centre is None and bool(keep.any()):
            self._begin(activations[keep].float())
        at_once = max(1, _CHUNK_VALUES // (keep.shape[1] * len(self.gap)))
        for x, kept in zip(
            activations.split(at_once), keep.split(at_once), strict=True
        ):
            self._add(x, kept)

    def _begin(self, rows: Tensor) -> None:
        """Take the start's decoder bias, and the factor if needed, from the first rows."""
        assert self.start is not None
        cfg: Any = self.start.cfg
        self.centre = start_centre(cfg.b_dec_init, rows)
        if cfg.normalize_activations != "expected_average_only_in":
            self._scale = 1.0
        elif self._scale is None:
            self._scale = float(cfg.d_in**0.5 / rows.norm(dim=-1).mean())
        self.start.to(str(rows.device))
        self.start.b_dec.copy_(self.centre * self._scale)

    def _add(self, x: Tensor, kept: Tensor) -> None:
        rows = x[kept].to(self.sae.dtype)
        spread = _Spread(kept)
        if len(rows):
            pre, bar = pre_activations(self.sae, rows)
            fired = _dense(self.sae.encode(rows)) != 0
            _require_finite(pre)
            self.end.update(self.seen, spread.any(fired), spread.amax(pre))
            gap = torch.where((pre > 0) & ~fired, bar - pre, torch.inf)
            self.gap = torch.minimum(self.gap, gap.amin(0).float().cpu())
            if self.start is not None and self.begin is not None:
                # set with the first batch
                assert self._scale is not None
                acts, pre = self.start.encode_with_hidden_pre(
                    rows.float() * self._scale
                )
                began = spread.any(_dense(acts) > 0)
                self.begin.update(self.seen, began, spread.amax(pre))
        self.seen += len(kept)

    def whole(self) -> State:
        """Return the state of all latents with all contexts."""
        begin = self.begin
        return State(
            torch.arange(len(self.gap)),
            self.end.fired,
            self.end.largest,
            None if begin is None else begin.fired,
            None if begin is None else begin.largest,
        )

    def left_out(
        self, counts: Callable[[State], dict[str, Mask]]
    ) -> dict[str, NDArray[np.float64]]:
        """
        Return the number of latents in each category without each context, [contexts].

        Args:
            counts: which latents of a state are in each category.
        """
        full = counts(self.whole())
        latents, contexts = self._events()
        ended = self.end.without(latents, contexts)
        began = (None, None)
        if self.begin is not None:
            began = self.begin.without(latents, contexts)
        changed = counts(State(latents, *ended, *began))
        found: dict[str, NDArray[np.float64]] = {}
        for name, mask in full.items():
            values = np.full(self.seen, float(mask.sum()))
            before = mask[latents.numpy()].astype(np.float64)
            np.add.at(values, contexts.numpy(), changed[name] - before)
            found[name] = values
        return found

    def _events(self) -> tuple[Tensor, Tensor]:
        """Return each pair of a latent and a context that may change its state, once."""
        parts = [*self.end.events()]
        if self.begin is not None:
            parts += self.begin.events()
        pairs = torch.stack(
            [torch.cat([part[side] for part in parts]) for side in (0, 1)], dim=1
        )
        unique = torch.unique(pairs, dim=0)
        return unique[:, 0], unique[:, 1]


def start_centre(method: str, rows: Tensor) -> Tensor:
    """
    Return the decoder bias that training would begin with, by ``b_dec_init``, [d_in].

    Args:
        method: "zero", "mean" or "geometric_median".
        rows: the first batch, [rows, d_in].
    """
    if method == "zero":
        return torch.zeros_like(rows[0])
    return rows.mean(0) if method == "mean" else geometric_median(rows)


def pre_activations(sae: SAE[Any], rows: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return pre-activations [rows, d_sae], and what a positive one must exceed to fire.

    The latter is the k-th largest of the row for TopK, [rows, 1], the threshold for
    JumpReLU, [d_sae], else 0. A gated latent's is the smaller of gate and magnitude.
    """
    x = sae.process_sae_in(rows)
    weights: Any = sae
    if hasattr(sae, "b_gate"):
        gate = x @ weights.W_enc + weights.b_gate
        magnitude = x @ (weights.W_enc * weights.r_mag.exp()) + weights.b_mag
        return torch.minimum(gate, magnitude), gate.new_zeros(())
    pre = x @ weights.W_enc + weights.b_enc
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        pre = pre * weights.W_dec.norm(dim=-1)
    k = getattr(sae.cfg, "k", None)
    if k is not None:
        return pre, pre.topk(int(k), dim=-1).values[:, -1:]
    threshold = getattr(sae, "threshold", None)
    return pre, pre.new_zeros(()) if threshold is None else threshold


class _Spread:
    """Reduction of values of kept rows [rows, d] over the tokens of each context."""

    def __init__(self, kept: Tensor) -> None:
        self._kept = kept

    def amax(self, values: Tensor) -> Tensor:
        """Return the largest value in each context, [contexts, d], float32 on the CPU."""
        shape = (*self._kept.shape, values.shape[-1])
        full = values.new_full(shape, -torch.inf)
        full[self._kept] = values
        return full.amax(1).float().cpu()

    def any(self, values: Tensor) -> Tensor:
        """Return whether a value is True in each context, bool [contexts, d] on the CPU."""
        full = values.new_zeros((*self._kept.shape, values.shape[-1]))
        full[self._kept] = values
        return full.any(1).cpu()


def _dense(acts: Tensor) -> Tensor:
    return acts.to_dense() if acts.is_sparse else acts


def _require_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise ValueError("its pre-activations hold NaN or infinity")
