"""Metrics of one SAE on held-out images, with jackknife intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval_recipes.statistics.blocks import block_interval
from eval_recipes.statistics.interval import Interval
from eval_recipes.vision.probe import curve_area, probe_answers
from eval_recipes.vision.tally import ImageTally
from saereg_plugin.metrics import (
    ClassTally,
    Codes,
    ReconstructionSums,
    class_tally,
    held_out_purity,
    left_out_sums,
    normalised,
    shuffled_labels,
    unit_embeddings,
)

Values = NDArray[np.float64]
"""A figure of all images, then of those without each block."""

Figures = dict[str, Interval | None]


def intervals(values: Mapping[str, tuple[Values, int]]) -> Figures:
    """Return each figure with its jackknife interval, from its values and its n."""
    return {
        name: block_interval(float(found[0]), found[1:].tolist(), n)
        for name, (found, n) in values.items()
    }


def reconstruction_figures(tally: ImageTally, blocks: Sequence[slice]) -> Figures:
    """Return R2, NMSE, L0 and the share of dead latents."""
    parts = [part for part in tally.reconstruction if part is not None]
    total: ReconstructionSums = reduce(add, parts)
    sets = [total, *(total - part for part in parts)]
    codes = tally.codes
    counts = torch.stack([codes.rows(block).counts() for block in blocks])
    fired = _left_out(counts.double())
    nonzero = _left_out(torch.from_numpy(tally.nonzero))
    found = {
        "r2": [each.r2() for each in sets],
        "r2_per_dimension": [each.r2_per_dimension() for each in sets],
        "nmse": [each.nmse() for each in sets],
        "l0": [float(n) / each.rows for n, each in zip(nonzero, sets, strict=True)],
        "dead_fraction": [float((each == 0).double().mean()) for each in fired],
    }
    return intervals({k: (np.array(v), len(codes)) for k, v in found.items()})


def curve_figures(tally: ImageTally, ks: Sequence[int]) -> Figures:
    """Return NMSE at each k; None for a k above the number of latents."""
    rows = torch.tensor([0 if p is None else p.nonzero for p in tally.reconstruction])
    errors = _left_out(torch.from_numpy(tally.relative))
    values = (errors / _left_out(rows.double())[:, None]).numpy()
    n = len(tally.codes)
    found = {k: (values[:, place], n) for place, k in enumerate(tally.ks)}
    known = intervals({f"nmse_at_{k}": each for k, each in found.items()})
    return {f"nmse_at_{k}": known.get(f"nmse_at_{k}") for k in ks}


def _left_out(parts: Tensor) -> Tensor:
    """Return the sum over blocks [blocks, ...] first, then the sums without each block."""
    total = parts.sum(0, keepdim=True)
    return torch.cat([total, total - parts])


class Scores(NamedTuple):
    """Monosemanticity by one encoder's embeddings."""

    values: dict[str, tuple[Values, int]]
    """
    score, floor, normalised and centred, with their n.

    ``centred`` subtracts the mean of all images, also where a block is left out.
    """
    of_latents: Tensor
    """Score of each latent, NaN without one. [d_sae]."""


def score_values(codes: Codes, embeddings: Tensor, blocks: Sequence[slice]) -> Scores:
    """
    Return monosemanticity over all latents that have a score.

    Args:
        codes: of the images.
        embeddings: of the images, [images, d].
        blocks: slices of the images.
    """
    means: dict[str, list[float]] = {"score": [], "floor": [], "centred": []}
    of_latents = torch.empty(0)
    for centred in (True, False):
        unit = unit_embeddings(embeddings, centred=centred)
        for place, sums in enumerate(left_out_sums(codes, unit, blocks)):
            scores = sums.scores()
            means["centred" if centred else "score"].append(_mean(scores))
            if not centred:
                means["floor"].append(sums.floor())
            if place == 0:
                of_latents = scores
    means["normalised"] = [
        normalised(score, floor)
        for score, floor in zip(means["score"], means["floor"], strict=True)
    ]
    n = int(of_latents.isfinite().sum())
    ns = {"floor": len(codes)}
    values = {k: (np.array(v), ns.get(k, n)) for k, v in means.items()}
    return Scores(values, of_latents)


def mean_values(
    found: Sequence[dict[str, tuple[Values, int]]],
) -> dict[str, tuple[Values, int]]:
    """Return the mean of the values of several encoders, figure by figure."""
    return {
        name: (np.mean([each[name][0] for each in found], axis=0), found[0][name][1])
        for name in found[0]
    }


_FLOORS = {
    "floor": "binary",
    "weighted_floor": "weighted",
    "held_out_floor": "held_out",
}
"""Measure that each floor is of, with shuffled labels."""


class Purity(NamedTuple):
    """Class purity of the latents."""

    figures: Figures
    of_latents: dict[str, Tensor]
    """images, class, binary, weighted and held_out of each latent, [d_sae]."""


class _Tallies(NamedTuple):
    """Class counts of all images, and of each half."""

    whole: ClassTally
    first: ClassTally
    second: ClassTally

    def without(self, part: _Tallies) -> _Tallies:
        return _Tallies(*(all_ - own for all_, own in zip(self, part, strict=True)))


_MEASURES: Mapping[str, Callable[[_Tallies], float]] = {
    "binary": lambda t: _mean(t.whole.binary()),
    "weighted": lambda t: _mean(t.whole.weighted()),
    "held_out": lambda t: _mean(held_out_purity(t.first, t.second)),
    "images_per_latent": lambda t: _median(t.whole.images),
    "fires_once": lambda t: _once(t.whole.images),
}


def purity_figures(
    codes: Codes,
    labels: Tensor,
    n_classes: int,
    blocks: Sequence[slice],
    *,
    first: Tensor,
    shuffles: int,
    seed: int,
) -> Purity:
    """
    Return purity next to its floor, the purity with shuffled labels.

    Args:
        codes: of the images.
        labels: int64 [images].
        n_classes: number of classes.
        blocks: slices of the images.
        first: bool [images], which are in the first half; c* of each half is scored on
            the other one.
        shuffles: random orders of the labels.
        seed: of these orders.
    """
    in_first = first[codes.images]
    halves = (codes, codes.where(in_first), codes.where(~in_first))
    found = _tallies(halves, labels, n_classes, blocks)
    orders = shuffled_labels(labels, shuffles, seed=seed)
    mixed = [_tallies(halves, order, n_classes, blocks) for order in orders]
    of_latents = _purity_of_latents(found[0])
    active = int((of_latents["images"] > 0).sum())
    both = int(of_latents["held_out"].isfinite().sum())
    ns = {"held_out": both, "held_out_floor": both}
    values = _purity_values(found, mixed)
    figures = intervals({k: (v, ns.get(k, active)) for k, v in values.items()})
    return Purity(figures, of_latents)


def _purity_values(
    found: Sequence[_Tallies], mixed: Sequence[Sequence[_Tallies]]
) -> dict[str, Values]:
    """
    Return every figure of all images, then without each block.

    Args:
        found: with the labels.
        mixed: with shuffled labels, by order.
    """
    values = {k: np.array([f(t) for t in found]) for k, f in _MEASURES.items()}
    for name, of in _FLOORS.items():
        each = [[_MEASURES[of](t) for t in tallies] for tallies in mixed]
        values[name] = np.mean(each, axis=0)
    values["above_floor"] = values["binary"] - values["floor"]
    return values


def _purity_of_latents(found: _Tallies) -> dict[str, Tensor]:
    """Return what is known of each latent, by column of the table."""
    whole = found.whole
    return {
        "images": whole.images.long(),
        "class": torch.where(whole.images > 0, whole.best, -1),
        "binary": whole.binary(),
        "weighted": whole.weighted(),
        "held_out": held_out_purity(found.first, found.second),
    }


def _tallies(
    halves: tuple[Codes, Codes, Codes],
    labels: Tensor,
    n_classes: int,
    blocks: Sequence[slice],
) -> list[_Tallies]:
    """Return the counts of all images, then those without each block."""
    whole = _Tallies(*(class_tally(half, labels, n_classes) for half in halves))
    parts = [
        _Tallies(
            *(class_tally(h.rows(block), labels[block], n_classes) for h in halves)
        )
        for block in blocks
    ]
    return [whole, *(whole.without(part) for part in parts)]


def probe_figures(
    codes: Codes,
    labels: Tensor,
    blocks: Sequence[slice],
    *,
    first: Tensor,
    iterations: int,
    ks: Sequence[int],
) -> tuple[Figures, bool]:
    """
    Return accuracy, curve, area and chance of the probe, and whether it converged.

    Args:
        codes: of the images.
        labels: int64 [images].
        blocks: slices of the images.
        first: bool [images], the images that the probe is fitted on.
        iterations: of the solver, at most.
        ks: latents kept in a code for the curve, 32 at most.

    Raises:
        ValueError: if the first half is of one class.
    """
    answers = probe_answers(codes, labels, first=first, iterations=iterations)
    images = answers.images
    kept = [np.ones(len(images), dtype=bool)]
    kept += [(images < block.start) | (images >= block.stop) for block in blocks]
    right, whole, majority = answers.right, answers.right_whole, answers.majority
    ones = np.ones((len(right), 1), dtype=bool)
    found = {
        "probe_area": [curve_area(right[:, k]) for k in kept],
        "probe_chance": [curve_area(ones & majority[k]) for k in kept],
        "probe_accuracy": [float(whole[k].mean()) for k in kept],
        **{f"probe_at_{n}": [float(right[n - 1, k].mean()) for k in kept] for n in ks},
    }
    figures = {k: (np.array(v), len(images)) for k, v in found.items()}
    return intervals(figures), answers.converged


def _mean(values: Tensor) -> float:
    """Return the mean without NaN; NaN if nothing is left."""
    return float(values.nanmean())


def _median(images: Tensor) -> float:
    active = images[images > 0]
    return float(active.quantile(0.5)) if len(active) else float("nan")


def _once(images: Tensor) -> float:
    active = images[images > 0]
    return float((active == 1).double().mean()) if len(active) else float("nan")
