"""Training of dead latents that are given back, next to controls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.kernels.blocks import row_norms
from saereg_plugin.machine import AUTO
from saereg_plugin.mechanics.resampling import draw_rows, restart_latents_
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import HASH, Entry, Release
from saereg_plugin.revival.start import training_history
from saereg_plugin.revival.weights import load_trained_
from saereg_plugin.sweeps.config import SweepConfig, group_fields, sae_id
from saereg_plugin.sweeps.matched import recorded_sweep
from saereg_plugin.sweeps.run import SweepResult, run_sweep
from saereg_plugin.sweeps.trainer import SweepTrainer

_log = logging.getLogger(__name__)

REVIVED, CONTINUED, WIDENED = "revived", "continued", "widened"
"""Arms: dead latents re-seeded; trained on as it was; control with as many more latents."""
ENCODER_SCALE = 0.5
"""Default of ``RevivalPlan.encoder_scale``."""
_ROWS = 8192
"""Rows that residuals are drawn from."""


class NothingDeadError(InputError):
    """No group of a release has dead latents to give back."""


_SAME = ("model", "hook_name", "source", "corpus", "context_size", "batch_size")
"""Fields in which release and control must agree."""


@dataclass(frozen=True)
class Revival:
    """
    A group with dead latents to give back.

    Attributes:
        group: of the release.
        control: group of the control's release; None without a control.
        latents: n, latents that each of its SAEs is given back.
        dead: by SAE id, its dead latents, the longest dead first, int64.
    """

    group: str
    control: str | None
    latents: int
    dead: Mapping[str, Tensor]

    def arm(self, name: str) -> str:
        """Return the name of an arm's group."""
        return f"{self.group}-{name}"

    def control_arm(self, name: str) -> str:
        """Return the name of an arm's group of the control."""
        return f"{self.control}-{name}"


@dataclass(frozen=True)
class RevivalPlan:
    """A sweep with the arms of all groups, and the releases that they start from."""

    sweep: SweepConfig
    revivals: tuple[Revival, ...]
    releases: Mapping[str, Release]
    """By name."""
    skipped: Mapping[str, str]
    """Why a group is left out."""
    encoder_scale: float = ENCODER_SCALE
    """Norm of a re-seeded encoder over the mean norm of the alive encoders."""


def plan_revival(
    release: str | Path,
    control: str | Path | None = None,
    *,
    latents: int = 32,
    steps: int = 100,
    dead_after: int = 100,
    lr: float | None = None,
    encoder_scale: float = ENCODER_SCALE,
    device: str = AUTO,
) -> RevivalPlan:
    """
    Return the sweep that gives dead latents back to the SAEs of a release.

    Each group has two arms: ``revived``, n of its dead latents re-seeded from residuals, and
    ``continued``, trained on as it was. So has its control, with ``widened`` for n more
    latents. All arms share seeds and stream, keep their regularisers at the end of their
    schedules, and begin with a fresh optimiser.

    Args:
        release: a folder that ``saereg-bench train`` wrote.
        control: the folder of its width-matched control (``saereg-bench train
            --match-alive``), or None.
        latents: n at most; less where an SAE of a group has fewer dead ones.
        steps: of training.
        dead_after: steps without firing, at the end of training, that make a latent dead.
        lr: learning rate; the release's by default.
        encoder_scale: norm of a re-seeded encoder over the mean norm of the alive encoders.
        device: torch device.

    Raises:
        InputError: if a release does not record its sweep or which latents fired, the control
            is of other activations or seeds, or no SAE has a dead latent.
    """
    if latents < 1 or steps < 1 or dead_after < 1:
        raise InputError(
            f"latents={latents}, steps={steps}, dead_after={dead_after}; expected 1 or more each."
        )
    own = open_release(release)
    sweep = recorded_sweep(own)
    other = None if control is None else open_release(control)
    controls = {} if other is None else _controls(own, sweep, other)
    found, skipped = _revivals(
        own, sweep, controls, latents=latents, dead_after=dead_after
    )
    if not found:
        reasons = "; ".join(f"{group}: {why}" for group, why in skipped.items())
        raise NothingDeadError(
            f"No group of release {own.name!r} has a dead latent to give back in each of its SAEs, by "
            f"{dead_after} steps without firing at the end of training ({reasons})."
        )
    settings = f"dead-after-{dead_after}-encoder-scale-{encoder_scale:g}"
    groups, started = _groups(own, sweep, other, found, settings)
    whole = replace(
        sweep,
        sae={},
        grid={},
        groups=groups,
        matched_to={},
        started_from=started,
        tokens=steps * sweep.batch_size,
        lr=sweep.lr if lr is None else lr,
        lr_warm_up_steps=min(sweep.lr_warm_up_steps, steps // 10),
        device=device,
    )
    releases = {r.name: r for r in (own, other) if r is not None}
    return RevivalPlan(whole, tuple(found), releases, skipped, encoder_scale)


def _revivals(
    release: Release,
    sweep: SweepConfig,
    controls: Mapping[str, str],
    *,
    latents: int,
    dead_after: int,
) -> tuple[list[Revival], dict[str, str]]:
    """Return the groups with dead latents in each of their SAEs, and why others are left out."""
    found: list[Revival] = []
    skipped: dict[str, str] = {}
    fields_of = group_fields(sweep)
    for group in release.groups:
        if fields_of[group].get("normalize_activations") == "covariance_whitening":
            skipped[group] = (
                "its saved weights include the whitening of the activations"
            )
            continue
        ids = [sae_id(group, seed) for seed in sweep.seeds]
        if not set(ids) <= set(release.ids):
            skipped[group] = "an SAE of it was taken out of training"
            continue
        dead = {
            name: dead_latents(release, _entry(release, name), dead_after)
            for name in ids
        }
        n = min(latents, *map(len, dead.values()))
        if n == 0:
            skipped[group] = "an SAE of it has no dead latent"
            continue
        found.append(Revival(group, controls.get(group), n, dead))
    return found, skipped


def run_revival(
    plan: RevivalPlan,
    folder: Path,
    *,
    name: str | None = None,
    fresh: bool = False,
    progress: Callable[[str], object] = _log.warning,
) -> SweepResult:
    """
    Train the arms of a plan into a release folder; an interrupted run resumes.

    Raises:
        InputError: see ``saereg_plugin.sweeps.run_sweep``.
    """

    return run_sweep(
        plan.sweep,
        folder,
        name=name,
        fresh=fresh,
        progress=progress,
        begin=beginning(plan),
    )


def beginning(plan: RevivalPlan) -> Callable[[SweepTrainer], None]:
    """Return what gives each arm of a plan its weights, before the first step."""

    def begin(trainer: SweepTrainer) -> None:
        for member in trainer.members:
            trained = trainer.trainers[member.sae_id]
            batch = trainer.stream.peek()[member.point][:_ROWS]
            start_member_(
                trained.sae,
                plan,
                member.group,
                member.seed,
                rows=batch.to(trained.sae.device),
                scale=trained.activation_scaler.scaling_factor or 1.0,
            )

    return begin


def dead_latents(release: Release, entry: Entry, dead_after: int) -> Tensor:
    """
    Return the latents of an SAE that were dead at the end of training, int64.

    The longest dead come first, those that never fired before all others.

    Raises:
        InputError: if the release does not record which latents fired.
    """
    history = training_history(release, entry)
    if history.last_fired is not None and history.steps is not None:
        order = history.last_fired.argsort(stable=True)
        silent = history.steps - history.last_fired >= dead_after
        return order[silent[order]]
    if history.never_fired is None:
        raise InputError(
            f"Release {release.name!r} does not record which latents fired in training; expected a "
            "release that this version trained. Train it again."
        )
    return history.never_fired.nonzero().squeeze(1)


def _controls(release: Release, sweep: SweepConfig, control: Release) -> dict[str, str]:
    """Return the control's group of each group of a release that has one."""
    other = recorded_sweep(control)
    for name in _SAME:
        mine, its = getattr(sweep, name), getattr(other, name)
        if mine != its:
            raise InputError(
                f"Control {control.name!r} has {name}={its!r}, release {release.name!r} {mine!r}; "
                "expected a control on the same activations."
            )
    missing = set(sweep.seeds) - set(other.seeds)
    if missing:
        raise InputError(
            f"Control {control.name!r} has no seeds {sorted(missing)}; expected those of the release."
        )
    prefix = f"{release.name}/"
    found = {
        of.removeprefix(prefix): group
        for group, of in other.matched_to.items()
        if of.startswith(prefix)
        and {sae_id(group, seed) for seed in sweep.seeds} <= set(control.ids)
    }
    if not found:
        raise InputError(
            f"Release {control.name!r} holds no width-matched control of {release.name!r}. Train one: "
            f"saereg-bench train --match-alive {release.folder} --out CONTROL."
        )
    return found


def _groups(
    own: Release,
    sweep: SweepConfig,
    other: Release | None,
    found: list[Revival],
    settings: str,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """
    Return the fields of every arm's group, and the group that each starts from.

    The latter says how latents are re-seeded as well (``settings``), so that a folder is not
    resumed with other settings.
    """
    groups: dict[str, dict[str, Any]] = {}
    started: dict[str, str] = {}

    def add(name: str, fields: Mapping[str, Any], release: Release, group: str) -> None:
        groups[name] = dict(fields)
        mark = str(release.provenance.get(HASH, ""))[:16]
        started[name] = f"{release.name}/{group}@{mark}-{settings}"

    fields_of = group_fields(sweep)
    controls = {} if other is None else group_fields(recorded_sweep(other))
    for one in found:
        for arm in (REVIVED, CONTINUED):
            add(one.arm(arm), fields_of[one.group], own, one.group)
        if other is None or one.control is None:
            continue
        fields = controls[one.control]
        add(one.control_arm(CONTINUED), fields, other, one.control)
        wide = {**fields, "d_sae": int(fields["d_sae"]) + one.latents}
        if levels := fields.get("matryoshka_widths"):
            wide["matryoshka_widths"] = [*levels[:-1], wide["d_sae"]]
        add(one.control_arm(WIDENED), wide, other, one.control)
    return groups, started


def _entry(release: Release, name: str) -> Entry:
    (entry,) = release.select([name])
    return entry


@torch.no_grad()
def start_member_(
    sae: TrainingSAE[Any],
    plan: RevivalPlan,
    group: str,
    seed: int,
    *,
    rows: Tensor,
    scale: float,
) -> None:
    """
    Give a training SAE the weights that its arm starts from, in place.

    Args:
        sae: of the arm.
        plan: the plan.
        group: the arm's group.
        seed: the SAE's seed.
        rows: activations, [rows, d_in].
        scale: factor of the activations in training.
    """
    told, _, _ = plan.sweep.started_from[group].rpartition("@")
    name, _, of = told.rpartition("/")
    release = plan.releases[name]
    steps = recorded_sweep(release).steps
    saved = release.load(sae_id(of, seed), device=str(sae.device))
    load_trained_(sae, saved, scale=scale, steps=steps)
    for one in plan.revivals:
        if group == one.arm(REVIVED):
            dead = one.dead[sae_id(one.group, seed)]
        elif group == one.control_arm(WIDENED):
            width = int(saved.cfg.d_sae)
            dead = torch.arange(width, width + one.latents)
        else:
            continue
        reseed_(
            sae,
            dead.to(sae.device),
            saved,
            rows,
            count=one.latents,
            encoder_scale=plan.encoder_scale,
            seed=seed,
        )


@torch.no_grad()
def reseed_(
    sae: TrainingSAE[Any],
    dead: Tensor,
    saved: SAE[Any],
    rows: Tensor,
    *,
    count: int,
    encoder_scale: float,
    seed: int,
) -> None:
    """
    Point dead latents of a training SAE at residuals of badly reconstructed rows, in place.

    Rows are drawn in proportion to the squared error of the saved SAE, each at most once.
    Decoder rows become the residual with the mean norm of the alive rows, encoders the same
    direction with ``encoder_scale`` times the mean norm of the alive encoders.

    Args:
        sae: the training SAE.
        dead: its dead latents, int64.
        saved: gives the residuals.
        rows: activations, [rows, d_in].
        count: how many of the dead are re-seeded, the first ones.
        encoder_scale: see above.
        seed: of the draw.

    Raises:
        InputError: if fewer rows than latents have a residual.
    """
    residual = rows - saved.decode(saved.encode(rows.to(saved.dtype))).to(rows)
    error = residual.square().sum(-1) * (row_norms(residual) > 0)
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_rows(error, count, generator).to(rows.device)
    if len(drawn) < count:
        raise InputError(
            f"{len(drawn)} of {len(rows)} rows have a residual; expected {count}, one for each latent. "
            "Give fewer latents."
        )
    alive = torch.ones(len(sae.W_dec), dtype=torch.bool, device=sae.W_dec.device)
    alive[dead] = False
    norm, encoder = 1.0, encoder_scale
    if bool(alive.any()):
        norm = float(row_norms(sae.W_dec[alive]).mean())
        encoder *= float(row_norms(sae.W_enc.T[alive]).mean())
    latents = dead[:count]
    restart_latents_(sae, latents, residual[drawn], norm=norm)
    sae.W_enc[:, latents] *= encoder / norm
