"""The study's figures as one JSON value, from whatever runs are finished."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import torch

from eval_recipes.statistics.seeds import Interval
from eval_recipes.studies.mnist.autoencoder import Weights, initial_weights
from eval_recipes.studies.mnist.finished import KEPT_SHARES, Finished
from eval_recipes.studies.mnist.images import IMAGES_SHA256, Images
from eval_recipes.studies.mnist.pairs import (
    COLUMNS,
    EXTRA_COLUMNS,
    LARGER_FIRST,
    Pair,
    measure_pair,
)
from eval_recipes.studies.mnist.settings import (
    PIXELS,
    PUBLISHED,
    Run,
    Setting,
    Training,
)

Seeds = tuple[int, int]


@dataclass(frozen=True)
class Baseline:
    """Untrained pairs of the shape that the trained ones have."""

    name: str
    label: str
    pairs: dict[Seeds, Pair]


def random_weights(d_sae: int, *, seed: int) -> Weights:
    """Draw encoder and decoder rows [d_sae, 784] of uniform directions, independently."""
    generator = torch.Generator().manual_seed(seed)
    enc, dec = torch.randn(2, d_sae, PIXELS, generator=generator)
    return Weights(enc, dec)


def measure_baselines(
    settings: Sequence[Setting], pairs: Sequence[Seeds], training: Training
) -> list[Baseline]:
    """
    Match random directions once, and starts of every kind in ``settings``.

    Args:
        settings: trained ones; only whether they start tied matters here.
        pairs: pairs of seeds that were trained.
        training: says the shape, and the bound of untied starts.
    """
    if not pairs:
        return []
    both = [random_weights(training.d_sae, seed=seed) for seed in (0, 1)]
    found = [Baseline("random", "random directions", {(0, 1): measure_pair(*both)})]
    by_start = {setting.tied: setting for setting in settings}
    for tied, setting in sorted(by_start.items()):
        starts = {
            seed: initial_weights(setting, training, seed=seed)
            for seed in sorted({seed for pair in pairs for seed in pair})
        }
        kind = "tied" if tied else "untied"
        measured = {(a, b): measure_pair(starts[a], starts[b]) for a, b in pairs}
        found.append(Baseline(f"{kind}-start", f"{kind}, before training", measured))
    return found


@dataclass(frozen=True)
class Group:
    """The finished SAEs of one setting, in the order of their seeds, and their pairs."""

    setting: Setting
    members: list[Finished]
    pairs: dict[Seeds, Pair]


def group_runs(finished: Sequence[Finished]) -> list[Group]:
    """Match all pairs of seeds of every setting."""
    by_setting: dict[str, list[Finished]] = {}
    for one in finished:
        by_setting.setdefault(one.run.setting.name, []).append(one)
    groups: list[Group] = []
    for members in by_setting.values():
        members.sort(key=lambda one: one.run.seed)
        pairs = {
            (a.run.seed, b.run.seed): measure_pair(a.weights, b.weights)
            for a, b in combinations(members, 2)
        }
        groups.append(Group(members[0].run.setting, members, pairs))
    return groups


def group_baselines(groups: Sequence[Group], training: Training) -> list[Baseline]:
    """Match untrained SAEs of the same shape, by the pairs of seeds that there are."""
    pairs = sorted({seeds for group in groups for seeds in group.pairs})
    return measure_baselines([group.setting for group in groups], pairs, training)


def build_report(
    groups: Sequence[Group],
    baselines: Sequence[Baseline],
    runs: Sequence[Run],
    training: Training,
    images: Images,
) -> dict[str, Any]:
    """
    Return the report; ``complete`` is false while any of ``runs`` is missing.

    A column's value is the mean over the pairs of seeds; each pair's own value has a 95 %
    interval over latents. With three seeds there is no interval over pairs.
    """
    done = {one.run for group in groups for one in group.members}
    missing = [run.name for run in runs if run not in done]
    return {
        "study": "mnist, arXiv 2603.04198",
        "complete": not missing,
        "finished_runs": len(done),
        "planned_runs": len(runs),
        "missing_runs": missing,
        "training": asdict(training),
        "images": {
            "n": len(images.pixels),
            "sha256": images.sha256,
            "is_mnist": images.sha256 == IMAGES_SHA256,
        },
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        },
        "kept_shares": KEPT_SHARES,
        "settings": [_setting(group) for group in groups],
        "baselines": [
            {"name": one.name, "label": one.label, **_compared(one.pairs)}
            for one in baselines
        ],
    }


def _setting(group: Group) -> dict[str, Any]:
    published = PUBLISHED.get(group.setting.name)
    return {
        **asdict(group.setting),
        "label": group.setting.label,
        "seeds": [one.run.seed for one in group.members],
        "published": None if published is None else published._asdict(),
        **_compared(group.pairs),
        "saes": [_sae(one) for one in group.members],
    }


def _compared(pairs: Mapping[Seeds, Pair]) -> dict[str, Any]:
    """Return what pairs of SAEs say: columns, and how exact the matchings are."""
    columns = (*COLUMNS, *EXTRA_COLUMNS)
    return {
        "figures": {name: _column(pairs, name) for name in columns},
        "as_published": {
            name: _published_column(pairs, name) for name in (*COLUMNS, LARGER_FIRST)
        },
        "matching_gaps": [
            {"seeds": list(seeds), **pair.gaps} for seeds, pair in pairs.items()
        ],
    }


def _column(pairs: Mapping[Seeds, Pair], name: str) -> dict[str, Any]:
    found = {
        seeds: pair.figures[name]
        for seeds, pair in pairs.items()
        if name in pair.figures
    }
    return {
        "mean": _mean([figure.value for figure in found.values()]),
        "pairs": [_figure(seeds, figure) for seeds, figure in found.items()],
    }


def _published_column(pairs: Mapping[Seeds, Pair], name: str) -> dict[str, Any]:
    found = {
        seeds: pair.as_published[name]
        for seeds, pair in pairs.items()
        if name in pair.as_published
    }
    return {
        "mean": _mean([*found.values()]),
        "pairs": [{"seeds": list(s), "value": value} for s, value in found.items()],
    }


def _figure(seeds: Seeds, figure: Interval) -> dict[str, Any]:
    return {
        "seeds": list(seeds),
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "n_latents": figure.n,
    }


def _sae(one: Finished) -> dict[str, Any]:
    return {
        "name": one.run.name,
        "seed": one.run.seed,
        **one.evaluation._asdict(),
        "seconds": sum(epoch["seconds"] for epoch in one.history),
        "cpu_seconds": sum(epoch["cpu_seconds"] for epoch in one.history),
        "mse_by_epoch": [epoch["mse"] for epoch in one.history],
        "density_by_epoch": [epoch["density"] for epoch in one.history],
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
