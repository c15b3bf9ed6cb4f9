"""Training of SAEs that start from the pooled latents of several seeds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sae_lens import SAE
from torch import Tensor

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.machine import AUTO
from saereg_plugin.metrics import PAIRED_THRESHOLD, alive_mask
from saereg_plugin.pooling.start import fit_scale_, load_pool_
from saereg_plugin.pooling.union import Union, unique_latents
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import HASH, Entry, Release
from saereg_plugin.revival.start import training_history
from saereg_plugin.revival.training import dead_latents
from saereg_plugin.sweeps.config import SweepConfig, group_fields, sae_id
from saereg_plugin.sweeps.matched import recorded_sweep
from saereg_plugin.sweeps.run import SweepResult, run_sweep
from saereg_plugin.sweeps.trainer import SweepTrainer

_log = logging.getLogger(__name__)

POOLED, FRESH, CONTROL = "pooled", "fresh", "control"
"""Arms: from the pool; from random weights for as many tokens; the same for the whole cost."""
_ROWS = 8192
"""Rows that the scale of a pool is fitted on."""


@dataclass(frozen=True)
class Pool:
    """
    The unique latents of a group.

    Attributes:
        group: of the release.
        seeds: of the SAEs that are pooled.
        d_sae: width of each of them.
        latents: candidates of each SAE, by seed, int64: alive by weights, and fired in training.
        union: unique latents of the candidates.
    """

    group: str
    seeds: tuple[int, ...]
    d_sae: int
    latents: Mapping[int, Tensor]
    union: Union

    def arm(self, name: str) -> str:
        """Return the name of an arm's group."""
        return f"{self.group}-{name}"


@dataclass(frozen=True)
class PoolPlan:
    """What is trained, and what it starts from."""

    release: Release
    sweep: SweepConfig
    """Of the release."""
    pools: tuple[Pool, ...]
    sweeps: Mapping[str, SweepConfig]
    """By folder: the pooled SAEs, the fresh ones, and the control of each group."""
    skipped: Mapping[str, str]
    """Why a group is left out."""
    threshold: float

    def folder(self, pool: Pool, arm: str) -> str:
        """Return the folder that an arm of a pool is trained into, a key of ``sweeps``."""
        return pool.arm(CONTROL) if arm == CONTROL else arm


def plan_pool(
    release: str | Path,
    *,
    groups: Sequence[str] = (),
    steps: int = 100,
    fresh_seeds: int = 2,
    threshold: float = PAIRED_THRESHOLD,
    lr: float | None = None,
    device: str = AUTO,
) -> PoolPlan:
    """
    Return the sweeps that pool the seeds of a release's groups, with what they are compared to.

    A group's unique latents (``unique_latents``) start one SAE. Fresh SAEs of that width are trained
    for as many steps, and control SAEs for as much as seeds and pool cost together, by latents
    times tokens. All read the same stream and keep the group's regularisers.

    Args:
        release: a folder that ``saereg-bench train`` wrote.
        groups: to pool; all by default.
        steps: of training that follow the pool.
        fresh_seeds: number of fresh SAEs, and of control SAEs, of each group.
        threshold: signed cosine of decoder rows above which latents are duplicates.
        lr: learning rate; the release's by default.
        device: torch device.

    Raises:
        InputError: if the release does not record its sweep or which latents fired, has one
            seed or no group of that name, or a group cannot be pooled.
    """
    if steps < 1 or fresh_seeds < 2:
        raise InputError(
            f"steps={steps}, fresh_seeds={fresh_seeds}; expected 1 or more steps, and 2 or more seeds."
        )
    own = open_release(release)
    sweep = recorded_sweep(own)
    if len(sweep.seeds) < 2:
        raise InputError(
            f"Release {own.name!r} has a single seed, {sweep.seeds[0]}; expected two or more SAEs of a "
            "group to pool. Train another seed."
        )
    fields = group_fields(sweep)
    chosen = list(groups) or list(fields)
    for group in chosen:
        if group not in fields:
            raise InputError(
                f"Release {own.name!r} has no group {group!r}. {suggest(group, fields)}"
            )
    pools: list[Pool] = []
    skipped: dict[str, str] = {}
    for group in chosen:
        reason = _unusable(own, sweep, group, fields[group])
        if reason is None:
            pools.append(_pool(own, sweep, group, threshold))
        else:
            skipped[group] = reason
    if not pools:
        told = "; ".join(f"{group}: {reason}" for group, reason in skipped.items())
        raise InputError(f"No group of release {own.name!r} can be pooled: {told}.")
    base = replace(
        sweep,
        sae={},
        grid={},
        matched_to={},
        started_from={},
        groups={"none": {}},
        lr=sweep.lr if lr is None else lr,
        device=device,
    )
    sweeps = _sweeps(own, base, pools, fields, steps, fresh_seeds, threshold)
    return PoolPlan(own, sweep, tuple(pools), sweeps, skipped, threshold)


def _unusable(
    release: Release, sweep: SweepConfig, group: str, fields: Mapping[str, Any]
) -> str | None:
    """Return why a group cannot be pooled, or None."""
    if len(_seeds(release, sweep, group)) < 2:
        return "fewer than two of its SAEs were trained to the end"
    if fields.get("matryoshka_widths"):
        return "its latents have levels, which a union does not have"
    if fields.get("normalize_activations") == "covariance_whitening":
        return "its saved weights include the whitening of the activations"
    return None


def _seeds(release: Release, sweep: SweepConfig, group: str) -> tuple[int, ...]:
    return tuple(s for s in sweep.seeds if sae_id(group, s) in release.ids)


def _pool(release: Release, sweep: SweepConfig, group: str, threshold: float) -> Pool:
    """Return the pool of a group."""
    seeds = _seeds(release, sweep, group)
    saes = {sae_id(group, seed): release.load(sae_id(group, seed)) for seed in seeds}
    require_alike(saes)
    # a training shorter than the window is a window itself
    window = min(sweep.dead_feature_window, sweep.steps)
    latents: dict[int, Tensor] = {}
    rates: list[Tensor] = []
    for seed, (name, sae) in zip(seeds, saes.items(), strict=True):
        (entry,) = release.select([name])
        alive = alive_mask(sae.W_enc.detach().T, sae.W_dec.detach())
        alive[dead_latents(release, entry, window)] = False
        latents[seed] = alive.nonzero().flatten()
        rates.append(_rates(release, entry)[latents[seed]])
    rows = [
        sae.W_dec.detach()[ids]
        for sae, ids in zip(saes.values(), latents.values(), strict=True)
    ]
    union = unique_latents(rows, rates, threshold=threshold)
    k = int(next(iter(saes.values())).cfg.to_dict().get("k") or 1)
    if union.width < k:
        raise InputError(
            f"Group {group!r} has {union.width} unique latents that fired, fewer than k={k}; no SAE of "
            "that width can be trained."
        )
    return Pool(group, seeds, int(next(iter(saes.values())).cfg.d_sae), latents, union)


def _rates(release: Release, entry: Entry) -> Tensor:
    """Return how often each latent of an SAE fired, as ``dead_latents`` found recorded."""
    rate = training_history(release, entry).rate
    assert rate is not None
    return rate


def require_alike(saes: Mapping[str, SAE[Any]]) -> None:
    """
    Refuse SAEs that differ in architecture, width, hook or normalisation.

    Args:
        saes: by id, two or more.
    """
    first: dict[str, Any] = {}
    for name, sae in saes.items():
        facts = {
            "architecture": sae.cfg.architecture(),
            "d_in": sae.cfg.d_in,
            "d_sae": sae.cfg.d_sae,
            "hook_name": sae.cfg.metadata.hook_name,
            "normalize_activations": sae.cfg.normalize_activations,
        }
        first = first or facts
        for field, value in facts.items():
            if value != first[field]:
                raise InputError(
                    f"SAE {name!r} has {field}={value!r}, {next(iter(saes))!r} {first[field]!r}; expected "
                    "SAEs that differ in their seed alone."
                )


def _sweeps(
    release: Release,
    base: SweepConfig,
    pools: Sequence[Pool],
    fields: Mapping[str, Mapping[str, Any]],
    steps: int,
    fresh_seeds: int,
    threshold: float,
) -> dict[str, SweepConfig]:
    """Return the sweeps by folder."""
    new = tuple(max(base.seeds) + 1 + number for number in range(fresh_seeds))
    groups = {pool.group: {**fields[pool.group]} for pool in pools}
    for pool in pools:
        groups[pool.group]["d_sae"] = pool.union.width

    def sweep(name: str, chosen: Sequence[Pool], **changes: Any) -> SweepConfig:
        return replace(
            base,
            groups={pool.arm(name): groups[pool.group] for pool in chosen},
            **changes,
        )

    mark = str(release.provenance.get(HASH, ""))[:16]
    short: dict[str, Any] = {
        "tokens": steps * base.batch_size,
        "lr_warm_up_steps": min(base.lr_warm_up_steps, steps // 10),
    }
    found = {
        POOLED: sweep(
            POOLED,
            pools,
            seeds=base.seeds[:1],
            started_from={
                pool.arm(POOLED): f"{release.name}/{pool.group}@{mark}-seeds-"
                f"{'-'.join(map(str, pool.seeds))}-threshold-{threshold:g}"
                for pool in pools
            },
            **short,
        ),
        FRESH: sweep(FRESH, pools, seeds=new, **short),
    }
    for pool in pools:
        whole = round(len(pool.seeds) * pool.d_sae * base.steps / pool.union.width)
        tokens = (whole + steps) * base.batch_size
        found[pool.arm(CONTROL)] = sweep(CONTROL, [pool], seeds=new, tokens=tokens)
    return found


def run_pool(
    plan: PoolPlan,
    folder: Path,
    *,
    fresh: bool = False,
    progress: Callable[[str], object] = _log.warning,
) -> dict[str, SweepResult]:
    """
    Train all arms of a plan, each sweep into its folder inside ``folder``; resume.

    Returns:
        Results by folder, up to the first that was interrupted.

    Raises:
        InputError: see ``saereg_plugin.sweeps.run_sweep``.
    """
    results: dict[str, SweepResult] = {}
    for name, sweep in plan.sweeps.items():
        results[name] = run_sweep(
            sweep,
            folder / name,
            name=f"{folder.name}-{name}",
            fresh=fresh,
            progress=progress,
            begin=beginning(plan) if name == POOLED else None,
        )
        if results[name].release is None:
            break
    return results


def beginning(plan: PoolPlan) -> Callable[[SweepTrainer], None]:
    """Return what gives each pooled SAE its weights, before the first step."""
    by_arm = {pool.arm(POOLED): pool for pool in plan.pools}

    def begin(trainer: SweepTrainer) -> None:
        for member in trainer.members:
            trained = trainer.trainers[member.sae_id]
            pool = by_arm[member.group]
            scale = trained.activation_scaler.scaling_factor or 1.0
            saved = [plan.release.load(sae_id(pool.group, seed)) for seed in pool.seeds]
            load_pool_(
                trained.sae,
                saved,
                [pool.latents[seed] for seed in pool.seeds],
                pool.union,
                scale=scale,
                steps=plan.sweep.steps,
            )
            rows = trainer.stream.peek()[member.point][:_ROWS]
            fit_scale_(trained.sae, rows.to(trained.sae.device) * scale)

    return begin
