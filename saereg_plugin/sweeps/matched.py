"""Width-matched controls: unregularised SAEs as wide as a group's alive latents."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sae_lens import SAE

from saereg_plugin.errors import InputError
from saereg_plugin.metrics import alive_mask
from saereg_plugin.registry import acts, decays
from saereg_plugin.releases.hub import whole_folder
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import Release
from saereg_plugin.sources.models import is_inside, texts_in
from saereg_plugin.sweeps.config import SweepConfig, group_fields, sweep_from

SUFFIX = "-matched"


def matched_sweep(name: str, *, device: str | None = None) -> SweepConfig:
    """
    Return the sweep that trains a width-matched control for every regularised group.

    A regularised SAE uses fewer latents, and fewer latents can agree more between seeds
    (left open by arXiv 2603.04198). The control has no regulariser. Its width is the median
    number of alive latents over the group's seeds, alive by cos(encoder, decoder) > .1.
    Seeds, order of tokens and all other fields are the group's. Matryoshka levels narrower
    than the control stay, and the last level is the control's width.

    In a group without regularisers, the mechanic ``weight_decay`` counts as a regulariser,
    and the control has no decay. The exception is a release in which every group decays its
    weights and some groups have regularisers. In all other cases the control keeps the decay.

    Args:
        name: folder of a release that ``run_sweep`` trained.
        device: where to train; by default where the release was trained.

    Raises:
        InputError: if the release does not record its sweep, has no regularised group (a
            coefficient or decay of 0 is none), or a group with fewer alive latents than k.
    """
    release = open_release(name)
    sweep = _trained(release)
    given = group_fields(sweep)
    penalised = _groups_with(given, "regularizers", acts)
    decayed = _groups_with(given, "mechanics", decays)
    if penalised and len(decayed) == len(given):
        decayed = set[str]()
    groups: dict[str, dict[str, Any]] = {}
    matched_to: dict[str, str] = {}
    for group, fields in given.items():
        ids = [entry.sae_id for entry in release.entries if entry.group == group]
        if not ids or group not in penalised | decayed:
            continue
        width = _median_alive(release, ids)
        if width < max(int(fields.get("k") or 1), 1):
            raise InputError(
                f"Group {group!r} of release {name!r} has {width} alive latents (median), fewer "
                f"than k={fields.get('k')}; no SAE of that width can be trained."
            )
        groups[group + SUFFIX] = _control(fields, width, decay=group in penalised)
        matched_to[group + SUFFIX] = f"{release.name}/{group}"
    if not groups:
        raise InputError(
            f"Release {name!r} has no regularised group; there is nothing to match."
        )
    control = replace(sweep, sae={}, groups=groups, grid={}, matched_to=matched_to)
    return control if device is None else replace(control, device=device)


def _trained(release: Release) -> SweepConfig:
    """Return the sweep of a release; refuse a release that was fine-tuned."""
    sweep = recorded_sweep(release)
    if sweep.finetune:
        raise InputError(
            f"Release {_shown(release)!r} was fine-tuned from {sweep.finetune.get('release')!r}; "
            "--match-alive expected a release that 'saereg-bench train' wrote. Train the control of that "
            "release, and fine-tune it likewise with 'saereg-bench finetune'."
        )
    return sweep


def recorded_sweep(release: Release) -> SweepConfig:
    """
    Return the sweep that a release records.

    Raises:
        InputError: if it records none, or one with a model or text inside the release.
    """
    sweep = sweep_of(release)
    if sweep is None:
        raise InputError(
            f"Release {_shown(release)!r} does not record how it was trained; expected the folder of a "
            "release that 'saereg-bench train' wrote."
        )
    return sweep


def sweep_of(release: Release) -> SweepConfig | None:
    """
    Return the sweep that a release records, or None without one.

    Raises:
        InputError: if it cannot be read, or names a model or text inside the release.
    """
    name = _shown(release)
    recorded = release.provenance.get("sweep")
    if release.folder is None or not isinstance(recorded, Mapping):
        return None
    sweep = sweep_from(recorded, source=f"the sweep of release {name!r}")
    for path in (sweep.model, sweep.corpus, *texts_in(sweep.source)):
        if is_inside(path, whole_folder(release.folder)):
            raise InputError(
                f"The sweep of release {name!r} reads {path!r}, which is inside the release "
                "itself and may hold code; expected a model and a text of your own or public ones. "
                "Copy it to another folder if you trust it, and name that in the manifest's sweep."
            )
    return sweep


def _shown(release: Release) -> str:
    """Return a release's folder, or its name, for messages."""
    return release.name if release.folder is None else str(release.folder)


def _control(fields: Mapping[str, Any], width: int, *, decay: bool) -> dict[str, Any]:
    """Return a group's fields without regularisers, and without decay unless ``decay``."""
    control = {**fields, "regularizers": [], "d_sae": width}
    if levels := fields.get("matryoshka_widths"):
        control["matryoshka_widths"] = [*(w for w in levels if w < width), width]
    if not decay:
        control["mechanics"] = [
            mechanic for mechanic in fields["mechanics"] if not decays(mechanic)
        ]
    return control


def _groups_with(
    given: Mapping[str, Mapping[str, Any]], key: str, holds: Callable[[Any], bool]
) -> set[str]:
    """Return the groups with an entry of the list ``key`` for which ``holds``."""
    return {group for group, f in given.items() if any(map(holds, f.get(key) or []))}


def _median_alive(release: Release, sae_ids: list[str]) -> int:
    counts: list[int] = []
    for sae_id in sae_ids:
        sae: SAE[Any] = SAE.from_pretrained(release.name, sae_id)
        alive = alive_mask(sae.W_enc.detach().T, sae.W_dec.detach())
        counts.append(int(alive.sum()))
    # the lower of two middle counts, which is the count of an SAE
    return statistics.median_low(counts)
