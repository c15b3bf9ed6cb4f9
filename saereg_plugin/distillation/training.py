"""Trainings of a distillation, one release folder each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from torch import Tensor

from saereg_plugin.architectures.parameters import own_tensors
from saereg_plugin.distillation.cores import Cores, cores_of, release_of
from saereg_plugin.distillation.settings import (
    MATCHED,
    Distill,
    cycle_part,
    initial_seed,
)
from saereg_plugin.kernels.blocks import row_norms
from saereg_plugin.mechanics.frozen_core import FrozenCoreModule
from saereg_plugin.mechanics.row_floor import directions
from saereg_plugin.registry import training_classes
from saereg_plugin.releases.release import HASH, Release
from saereg_plugin.revival.weights import unfolded
from saereg_plugin.sweeps.config import sae_id
from saereg_plugin.sweeps.run import SweepResult, run_sweep
from saereg_plugin.sweeps.trainer import SweepTrainer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distilled:
    """
    A finished distillation.

    Attributes:
        releases: by part.
        cores: chosen on the SAEs of each part.
        stopped: SAEs that were taken out of training, a line each.
        seconds: of the trainings, as their releases record them.
    """

    releases: dict[str, Release]
    cores: dict[str, Cores]
    stopped: list[str]
    seconds: float


def distill(
    settings: Distill,
    root: Path,
    *,
    name: str | None = None,
    fresh: bool = False,
    progress: Callable[[str], object] = _log.warning,
) -> Distilled | None:
    """
    Train all parts of a distillation; a killed one resumes at the cycle where it was.

    Example::

        from saereg_plugin.distillation.settings import read_distill
        from saereg_plugin.distillation.training import distill

        found = distill(read_distill("sweep.yaml", cycles=3), Path("distilled"))
        core = found.cores["cycle-3"]["distilled", 0]

    Args:
        settings: see ``Distill``.
        root: folder with a release folder per part, and the cores.
        name: begins the releases' names; by default that of the folder.
        fresh: train anew.
        progress: gets a line on each part.

    Returns:
        None if training was interrupted; the same call resumes.

    Raises:
        InputError: see ``saereg_plugin.sweeps.run_sweep`` and ``cores_of``.
    """
    releases: dict[str, Release] = {}
    cores: dict[str, Cores] = {}
    stopped: list[str] = []
    for part in settings.parts:
        progress(f"{part}: {', '.join(settings.groups_in(part))}.")
        result = train_part(
            settings, root, part, name=name, fresh=fresh, progress=progress
        )
        if result.release is None:
            return None
        releases[part] = result.release
        stopped += result.stopped
        cores[part] = cores_of(settings, root, part, fresh=fresh)
    seconds = sum(
        float(release.provenance.get("training_seconds", 0.0))
        for part, release in releases.items()
        if settings.first is None or part != cycle_part(1)
    )
    return Distilled(releases, cores, stopped, seconds)


def train_part(
    settings: Distill,
    root: Path,
    part: str,
    *,
    name: str | None = None,
    fresh: bool = False,
    progress: Callable[[str], object] = _log.warning,
) -> SweepResult:
    """
    Train one part, whose earlier parts are finished; an interrupted training resumes.

    A later cycle draws all weights anew and takes over the encoder vectors of the core, which
    stay frozen (``frozen_core``) in the first places.

    Args:
        settings, root, fresh, progress: as in ``distill``.
        part: its name.
        name: begins the release's name.

    Raises:
        InputError: as ``distill``.
    """
    cycle = settings.cycle(part)
    if part == cycle_part(1) and settings.first is not None:
        return SweepResult(release_of(settings, root, part), [], 0.0)
    begin = None
    started: dict[str, str] = {}
    if part not in (cycle_part(1), MATCHED):
        before = cycle_part(cycle - 1)
        release = release_of(settings, root, before)
        cores = cores_of(settings, root, before)
        started = {
            group: _origin(settings, release, cores, arm, cycle)
            for group, arm in settings.groups_in(part).items()
        }
        begin = _beginning(settings, release, cores, part)
    return run_sweep(
        settings.sweep_of(part, started),
        root / part,
        name=f"{name or root.resolve().name}-{part}",
        fresh=fresh,
        progress=progress,
        begin=begin,
    )


def _origin(
    settings: Distill, release: Release, cores: Cores, arm: str, cycle: int
) -> str:
    """Return what a group starts from: release, group, hash of the manifest, its cores."""
    mark = str(release.provenance.get(HASH, ""))[:16]
    marks = [cores[arm, seed].mark for seed in settings.sweep.seeds]
    of = settings.group(arm, cycle - 1)
    return f"{release.name}/{of}@{mark}-core-{'-'.join(marks)}"


def _beginning(
    settings: Distill, release: Release, cores: Cores, part: str
) -> Callable[[SweepTrainer], None]:
    """Return what gives each SAE of a part its weights, before the first step."""
    cycle = settings.cycle(part)
    arms = settings.groups_in(part)

    def begin(trainer: SweepTrainer) -> None:
        for member in trainer.members:
            trained = trainer.trainers[member.sae_id]
            arm = arms[member.group]
            of = sae_id(settings.group(arm, cycle - 1), member.seed)
            start_cycle_(
                trained.sae,
                release.load(of, device=str(trained.sae.device)),
                torch.tensor(cores[arm, member.seed].latents),
                cfg=replace(member.cfg, init_seed=initial_seed(member.seed, cycle)),  # pyright: ignore[reportCallIssue]
                scale=trained.activation_scaler.scaling_factor or 1.0,
            )

    return begin


@torch.no_grad()
def start_cycle_(
    sae: TrainingSAE[Any],
    saved: SAE[Any],
    latents: Tensor,
    *,
    cfg: Any,
    scale: float,
) -> None:
    """
    Draw a training SAE's weights anew and give it a core in the first places, in place.

    The encoder vectors act as they did in the saved SAE. Biases are drawn anew, and so are
    decoder rows: with the initialisation ``tied`` they point along their encoder vectors, as
    in every new SAE, with ``untied`` they are random.

    Args:
        sae: with the mechanic ``frozen_core``.
        saved: the SAE that the core is of.
        latents: of the core, int64.
        cfg: configuration of the new weights.
        scale: factor of the activations in training.
    """
    fresh = training_classes(cfg.architecture())[0](cfg).to(sae.device)
    drawn = dict(own_tensors(fresh))
    for name, tensor in own_tensors(sae):
        tensor.copy_(drawn[name])
    size = len(latents)
    rescaled = getattr(cfg, "rescale_acts_by_decoder_norm", False)
    factor = unfolded(sae, "W_enc", scale, rescaled=cfg.unit_norm or rescaled)
    encoder = saved.W_enc[:, latents.to(saved.W_enc.device)].to(sae.W_enc) * factor
    norms = row_norms(sae.W_dec[:size])
    if rescaled:
        # a saved encoder has the norm of its decoder row
        encoder = encoder / norms
    sae.W_enc[:, :size] = encoder
    if cfg.initialization == "tied":
        along = directions(
            encoder.T, sae.W_dec[:size], torch.arange(size, device=sae.device)
        )
        sae.W_dec[:size] = (norms[:, None] * along).to(sae.W_dec.dtype)
    core: Any = sae.components
    module = core["frozen_core"]
    assert isinstance(module, FrozenCoreModule)
    module.size = size
