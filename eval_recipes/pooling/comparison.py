"""Pooled SAEs against their seeds, fresh SAEs and a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.cross_seed.firing import Moments, read_rows
from eval_recipes.pooling.shares import (
    NULLS,
    Dictionary,
    drawn,
    over_latents,
    pairs_of,
    shared_latents,
)
from eval_recipes.revival.residuals import ResidualTally, spread
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import Passed, tally_heldout
from eval_recipes.statistics.interval import (
    Array,
    Interval,
    Statistic,
    bootstrap_together,
    explained_variance,
    wilson,
)
from eval_recipes.tables.table import cell
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json
from saereg_plugin.metrics import LeadingDirections, principal_directions
from saereg_plugin.pooling.training import CONTROL, FRESH, POOLED, Pool, PoolPlan
from saereg_plugin.sweeps.config import sae_id

SEEDS = "seeds"
"""Arm of the SAEs that were pooled."""
ARMS = (SEEDS, POOLED, FRESH, CONTROL)
COMPARED = ((POOLED, SEEDS), (POOLED, FRESH), (POOLED, CONTROL))
"""Arms whose latents are matched with those of others, next to each arm with itself."""
COLUMNS = ("group", "figure", "of", "against", "value", "low", "high", "n")


@dataclass(frozen=True)
class PoolComparison:
    """
    Figures of every group.

    Attributes:
        frame: columns ``COLUMNS``. ``of`` and ``against`` are ids of SAEs, or arms for the mean
            over their SAEs; ``against`` is None for a figure of one.
        verdicts: a sentence per group.
        pools: facts of each group's pool.
    """

    frame: pd.DataFrame
    verdicts: Mapping[str, str]
    pools: Mapping[str, Mapping[str, Any]]

    def write(self, path: Path, **about: Any) -> Path:
        """Write pools, rows and verdicts as JSON."""
        rows = self.frame.astype(object).where(self.frame.notna(), None)
        content = {
            **about,
            "pools": {group: dict(facts) for group, facts in self.pools.items()},
            "verdicts": dict(self.verdicts),
            "rows": rows.to_dict("records"),
        }
        write_json(path, content)
        return path


@dataclass(frozen=True)
class _Measured:
    """One SAE on held-out inputs."""

    dictionary: Dictionary
    residual: Array
    """Sum of ||x - x_hat||^2, [contexts]."""
    fired: Tensor
    """Latents that fire, bool [d_sae]."""
    passed: Passed
    principal: LeadingDirections
    """Of the activations as the SAE reads them."""


class _Tally(ResidualTally):
    """Residuals, latents that fire, and second moments of what the SAE reads."""

    def __init__(self, sae: SAE[Any], moments: Moments) -> None:
        super().__init__(sae)
        self.moments = moments
        self._batches = 0

    def update(self, activations: Tensor, keep: Tensor) -> None:
        rows = activations[keep.to(activations.device)].to(self.sae.dtype)
        self.moments.add(self._batches, lambda: read_rows(self.sae, rows))
        self._batches += 1
        super().update(activations, keep)


def members(plan: PoolPlan, pool: Pool) -> dict[str, list[str]]:
    """Return the ids of the SAEs of each arm, trained to the end or not."""
    found = {SEEDS: [sae_id(pool.group, seed) for seed in pool.seeds]}
    for arm in (POOLED, FRESH, CONTROL):
        seeds = plan.sweeps[plan.folder(pool, arm)].seeds
        found[arm] = [sae_id(pool.arm(arm), seed) for seed in seeds]
    return found


def compare(plan: PoolPlan, context: RunContext) -> PoolComparison:
    """
    Measure the pooled SAE of each group next to the others.

    Args:
        plan: the plan of the training.
        context: a run whose subjects are the SAEs of the release and all arms.

    Raises:
        InputError: if an SAE cannot be measured, or all of an arm were taken out of training.
    """
    rows: list[dict[str, Any]] = []
    verdicts: dict[str, str] = {}
    pools: dict[str, dict[str, Any]] = {}
    ids = {subject.sae_id for subject in context.subjects}
    for pool in plan.pools:
        arms = {
            arm: [name for name in names if name in ids]
            for arm, names in members(plan, pool).items()
        }
        for arm, names in arms.items():
            if not names:
                raise InputError(
                    f"Every SAE of {pool.arm(arm)!r} was taken out of training, so that group "
                    f"{pool.group!r} has no comparison. Lower the learning rate, or leave the group out."
                )
        measured = _measure(
            context, [name for names in arms.values() for name in names]
        )
        figures = _Figures(pool, arms, measured, context.seed)
        found = figures.rows()
        rows += found
        pools[pool.group] = pool_facts(pool)
        verdicts[pool.group] = verdict(pool, found)
    return PoolComparison(
        pd.DataFrame(rows, columns=pd.Index(COLUMNS)), verdicts, pools
    )


def _measure(context: RunContext, names: Sequence[str]) -> dict[str, _Measured]:
    moments: dict[str, Moments] = {}

    def start(_: str, sae: SAE[Any]) -> _Tally:
        read = str(sae.cfg.normalize_activations)
        return _Tally(sae, moments.setdefault(read, Moments()))

    def finish(tally: _Tally, passed: Passed) -> _Measured:
        return _Measured(
            Dictionary.of(tally.sae),
            tally.by_context,
            tally.fired,
            passed,
            principal_directions(tally.moments.covariance()),
        )

    subjects = [s for s in context.subjects if s.sae_id in set(names)]
    found, failures = tally_heldout(context, subjects, start, finish)
    for name, cause in failures.items():
        raise InputError(f"SAE {name!r} has no held-out figures: {cause}.")
    return found


@dataclass(frozen=True)
class _Figures:
    """Figures of one group."""

    pool: Pool
    arms: Mapping[str, list[str]]
    measured: Mapping[str, _Measured]
    seed: int

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows."""
        return [*self._variances(), *self._dead(), *self._shared(), *self._nulls()]

    def _row(
        self, figure: str, of: str, against: str | None, found: Interval | None
    ) -> list[dict[str, Any]]:
        if found is None:
            return []
        values = (self.pool.group, figure, of, against, *found[:4])
        return [dict(zip(COLUMNS, values, strict=True))]

    def _variances(self) -> list[dict[str, Any]]:
        """Explained variance of each SAE and arm, and the gains of the pooled SAE."""
        (pooled,) = self.arms[POOLED]
        sums = self.measured[pooled].passed.kept

        def share(residual: Array) -> Statistic:
            return lambda weights: explained_variance(sums, residual, weights)

        def gain(less: Array) -> Statistic:
            return lambda weights: (weights @ less) / spread(sums, weights)

        names = [name for ids in self.arms.values() for name in ids]
        residuals = {name: self.measured[name].residual for name in names}
        means = {
            arm: np.mean([residuals[name] for name in ids], axis=0)
            for arm, ids in self.arms.items()
        }
        statistics = {name: share(each) for name, each in (residuals | means).items()}
        gains = {
            f"over {arm}": gain(means[arm] - means[POOLED])
            for arm in ARMS
            if arm != POOLED
        }
        found = bootstrap_together(statistics | gains, len(sums.count), seed=self.seed)
        rows: list[dict[str, Any]] = []
        for name in statistics:
            rows += self._row("explained_variance", name, None, found[name])
        for arm in (SEEDS, FRESH, CONTROL):
            rows += self._row(
                "explained_variance_gain", POOLED, arm, found[f"over {arm}"]
            )
        return rows

    def _dead(self) -> list[dict[str, Any]]:
        """Share of the latents that fire on no held-out row, and over all of an arm."""
        rows: list[dict[str, Any]] = []
        for arm, ids in self.arms.items():
            fired = [self.measured[name].fired for name in ids]
            named = [*zip(ids, fired, strict=True), (arm, torch.cat(fired))]
            for name, mask in named:
                found = wilson(int((~mask).sum()), len(mask))
                rows += self._row("dead_share", name, None, found)
        return rows

    def _shared(self) -> list[dict[str, Any]]:
        """Shared latents of pairs of SAEs, all and those that fire, and the mean of each two arms."""
        rows: list[dict[str, Any]] = []
        for a, b in [*COMPARED, *((arm, arm) for arm in ARMS)]:
            masks: dict[str, list[Tensor]] = {"shared": [], "shared_firing": []}
            own, others = (
                {name: self.measured[name].dictionary for name in self.arms[arm]}
                for arm in (a, b)
            )
            for x, y in pairs_of(own, others):
                one, other = self.measured[x], self.measured[y]
                found = {
                    "shared": shared_latents(own[x], others[y]),
                    "shared_firing": shared_latents(
                        own[x].take(one.fired), others[y].take(other.fired)
                    ),
                }
                for figure, mask in found.items():
                    masks[figure].append(mask)
                    value = over_latents([mask], seed=self.seed)
                    rows += self._row(figure, x, y, value)
            for figure, each in masks.items():
                rows += self._row(figure, a, b, over_latents(each, seed=self.seed))
        return rows

    def _nulls(self) -> list[dict[str, Any]]:
        """Shared latents of drawn dictionaries of the same shapes."""
        generator = torch.Generator().manual_seed(self.seed)
        rows: list[dict[str, Any]] = []
        (pooled,) = self.arms[POOLED]
        principal = self.measured[pooled].principal
        for kind in NULLS:
            for arm in (SEEDS, FRESH):
                shapes = [
                    self.measured[name].dictionary.shape
                    for name in (pooled, self.arms[arm][0])
                ]
                a, b = (drawn(kind, shape, principal, generator) for shape in shapes)
                found = over_latents([shared_latents(a, b)], seed=self.seed)
                rows += self._row(f"shared_{kind}", POOLED, arm, found)
        return rows


def pool_facts(pool: Pool) -> dict[str, Any]:
    """Return what a pool was made of."""
    union = pool.union
    return {
        "seeds": list(pool.seeds),
        "d_sae": pool.d_sae,
        "candidates": [len(pool.latents[seed]) for seed in pool.seeds],
        "unique": union.width,
        # by the number of seeds that have them, from 1
        "shared_by": union.shared_by.bincount(minlength=len(pool.seeds) + 1).tolist()[
            1:
        ],
    }


def verdict(pool: Pool, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on a pool: its explained variance and stability next to the others'."""
    found = {(row["figure"], row["of"], row["against"]): row for row in rows}

    def gain(arm: str) -> str:
        row = found["explained_variance_gain", POOLED, arm]
        over = Interval(row["value"], row["low"], row["high"], row["n"])
        return cell(over, "{:+.3f}".format)

    def share(of: str, against: str) -> str:
        row = found.get(("shared", of, against))
        return "unknown" if row is None else f"{row['value']:.3f}"

    value = found["explained_variance", POOLED, None]["value"]
    return (
        f"{pool.group}: {pool.union.width} unique latents of {len(pool.seeds)} SAEs of {pool.d_sae}; "
        f"explained variance {value:.3f}, {gain(FRESH)} over fresh SAEs and {gain(CONTROL)} over the "
        f"control of the same cost. It shares {share(POOLED, FRESH)} of its latents with fresh SAEs "
        f"(these with one another {share(FRESH, FRESH)}) and {share(POOLED, CONTROL)} with the control "
        f"(one another {share(CONTROL, CONTROL)})."
    )
