"""Cores of the SAEs of a part: chosen, written and read."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saereg_plugin.distillation.ranking import LatentFigures, measure_latents
from saereg_plugin.distillation.settings import (
    DISTILLED,
    FREQUENCY,
    MATCHED,
    RANDOM,
    Distill,
    cycle_part,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, write_json
from saereg_plugin.metrics.attribution import ranking, smallest_core
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import HASH, Release
from saereg_plugin.sweeps.config import sae_id
from saereg_plugin.sweeps.matched import recorded_sweep

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Core:
    """
    Latents of one SAE that an arm promotes.

    Attributes:
        arm: whose ranking chose them.
        group: of the SAE.
        seed: of the SAE.
        latents: numbers of the latents, the first in the ranking first.
        frozen: size of the core that the SAE was trained with: its first latents.
        alive: latents of the SAE that fire on the text of the ranking.
        frozen_alive: latents of the frozen core that fire on the text of the ranking.
        by_attribution: latents of the smallest core that reaches the share of the total
            attribution, whatever chose ``latents``; the first in the ranking first.
        share: of the total attribution that ``latents`` carry.
    """

    arm: str
    group: str
    seed: int
    latents: tuple[int, ...]
    frozen: int
    alive: int
    frozen_alive: int
    by_attribution: tuple[int, ...]
    share: float

    def __post_init__(self) -> None:
        """Make tuples of the latents, which JSON has as lists."""
        object.__setattr__(self, "latents", tuple(self.latents))
        object.__setattr__(self, "by_attribution", tuple(self.by_attribution))

    @property
    def kept(self) -> int:
        """How many latents of the frozen core are promoted again."""
        return sum(latent < self.frozen for latent in self.latents)

    @property
    def kept_by_attribution(self) -> float:
        """
        Share of the core by attribution that is in the frozen core.

        Unlike ``kept`` it does not depend on how an arm promotes, so that arms compare.
        """
        inside = sum(latent < self.frozen for latent in self.by_attribution)
        return inside / len(self.by_attribution)

    @property
    def kept_by_chance(self) -> float:
        """``kept_by_attribution`` of a core drawn from the latents that fire, expected."""
        return self.frozen_alive / self.alive

    @property
    def mark(self) -> str:
        """Hash of the latents."""
        return hashlib.sha256(json.dumps(self.latents).encode()).hexdigest()[:16]


Cores = Mapping[tuple[str, int], Core]
"""By arm and seed."""


def cores_of(
    settings: Distill, root: Path, part: str, *, fresh: bool = False
) -> dict[tuple[str, int], Core]:
    """
    Return the core of every SAE of a finished part; choose and write it the first time.

    The distilled core is the smallest that reaches the share of the total attribution. The
    controls' cores have its size: by firing rate, or drawn from the latents that fire.

    Args:
        settings: of the distillation.
        root: its folder.
        part: of which the SAEs are.
        fresh: choose anew.

    Raises:
        InputError: if an SAE was taken out of training, or no latent has an attribution.
    """
    release = release_of(settings, root, part)
    frozen = _frozen(settings, root, part)
    key = _key(settings, release, frozen)
    target = root / "cores" / f"{part}.json"
    found = None if fresh else _read(target, key)
    if found is None:
        found = _choose(settings, release, part, frozen)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, {"key": key, "cores": [asdict(core) for core in found]})
    return {(core.arm, core.seed): core for core in found}


def release_of(settings: Distill, root: Path, part: str) -> Release:
    """Return the release of a finished part."""
    if settings.first is not None and part == cycle_part(1):
        return open_release(settings.first)
    return open_release(root / part)


def _frozen(settings: Distill, root: Path, part: str) -> dict[tuple[str, int], Core]:
    """Return the cores that a part was trained with; none of the first cycle."""
    cycle = settings.cycle(part)
    if part == MATCHED or cycle == 1:
        return {}
    return cores_of(settings, root, cycle_part(cycle - 1))


def _key(settings: Distill, release: Release, frozen: Cores) -> dict[str, Any]:
    """Return plain JSON that changes when the cores may."""
    return {
        **settings.marks(),
        "release": release.provenance.get(HASH),
        "arms": settings.arms,
        "fields": [field.name for field in fields(Core)],
        "frozen": sorted(core.mark for core in frozen.values()),
    }


def _read(target: Path, key: Mapping[str, Any]) -> list[Core] | None:
    """Return the cores of a key; None if the file is absent, damaged or of another key."""
    if not target.is_file():
        return None
    try:
        kept: Any = read_json(target, remedy="The cores are chosen again.")
    except InputError as error:
        _log.warning("%s", error)
        return None
    if not isinstance(kept, dict) or kept.get("key") != key:
        return None
    found: list[dict[str, Any]] = kept["cores"]
    return [Core(**one) for one in found]


def _choose(
    settings: Distill, release: Release, part: str, frozen: Cores
) -> list[Core]:
    """Rank the latents of every SAE of a part, and cut the rankings."""
    groups = settings.groups_in(part)
    seeds = list(settings.sweep.seeds)
    ids = {
        (arm, seed): sae_id(group, seed)
        for group, arm in groups.items()
        for seed in seeds
    }
    for name in ids.values():
        if name not in release.ids:
            raise InputError(
                f"SAE {name!r} was taken out of training, so that it has no core. Lower the learning "
                "rate, or leave its seed out."
            )
    sweep = recorded_sweep(release)
    device = str(sweep.device)
    figures = measure_latents(
        settings,
        sweep,
        {name: release.load(name, device=device) for name in ids.values()},
    )
    arms = [MATCHED] if part == MATCHED else settings.arms
    found: list[Core] = []
    for seed in seeds:
        size = 0
        for arm in arms:
            # in the first cycle all arms look at the same SAEs
            own = arm if (arm, seed) in ids else DISTILLED
            of = figures[ids[own, seed]]
            latents = promoted(
                arm, of, size, share=settings.share, seed=_draw(seed, part)
            )
            size = size or len(latents)
            before = frozen.get((arm, seed))
            first = 0 if before is None else len(before.latents)
            by_attribution = promoted(DISTILLED, of, 0, share=settings.share, seed=0)
            found.append(
                Core(
                    arm=arm,
                    group=next(g for g, a in groups.items() if a == own),
                    seed=seed,
                    latents=tuple(latents.tolist()),
                    frozen=first,
                    alive=int((of.fires > 0).sum()),
                    frozen_alive=int((of.fires[:first] > 0).sum()),
                    by_attribution=tuple(by_attribution.tolist()),
                    share=_carried(of.scores, latents),
                )
            )
    return found


def promoted(
    arm: str, figures: LatentFigures, size: int, *, share: float, seed: int
) -> Tensor:
    """
    Return the latents that an arm promotes, int64; the first in its ranking first.

    Args:
        arm: ``distilled`` and ``matched`` rank by attribution, ``frequency`` by firing rate;
            ``random`` draws among the latents that fire.
        figures: of the SAE.
        size: of the core, for the arms without attribution; fewer if fewer latents fire.
        share: of the total attribution that is to be reached.
        seed: of the draw.

    Raises:
        InputError: if no latent has an attribution above 0.
    """
    if arm in (DISTILLED, MATCHED):
        core = smallest_core(figures.scores, share)
        if len(core) == 0:
            raise InputError(
                f"No latent has an attribution above 0 on {figures.tokens:,} tokens; there is no core. "
                "Rank on more tokens, or by a higher quantile."
            )
        return core
    if arm == FREQUENCY:
        return ranking(figures.fires.double())[:size]
    if arm != RANDOM:
        raise ValueError(f"no arm {arm!r}")
    alive = (figures.fires > 0).nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    return alive[torch.randperm(len(alive), generator=generator)][:size]


def _carried(scores: Tensor, latents: Tensor) -> float:
    """Return the share of the total attribution that latents carry."""
    return float(scores[latents].double().sum() / scores.double().clamp(min=0).sum())


def _draw(seed: int, part: str) -> int:
    """Return the seed of a random core, which no other part or seed has."""
    digest = hashlib.sha256(f"{part}-{seed}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def survivors(cores: Sequence[Core]) -> int:
    """
    Return how many latents are in the cores of all cycles, from the first on.

    Args:
        cores: of one arm and seed, cycle by cycle. Latent i of a cycle's SAE has the encoder
            of the i-th latent of the core before.
    """
    if not cores:
        return 0
    alive = set(range(len(cores[0].latents)))
    for core in cores[1:]:
        # places in this core of latents that were in all cores before
        alive = {
            place
            for place, latent in enumerate(core.latents)
            if latent < core.frozen and latent in alive
        }
    return len(alive)
