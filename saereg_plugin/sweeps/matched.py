"""The control of a regularised group: unregularised SAEs as wide as its alive latents."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sae_lens import SAE

from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.weight_decay import WeightDecay
from saereg_plugin.metrics import alive_mask
from saereg_plugin.registry import acts
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import Entry, Release
from saereg_plugin.releases.sae_lens import register_release
from saereg_plugin.sources.trust import is_inside
from saereg_plugin.sweeps.config import SweepConfig, group_fields, sweep_from

SUFFIX = "-matched"


def matched_sweep(name: str) -> SweepConfig:
    """
    Return the sweep that trains a width-matched control for every regularised group.

    A regularised SAE uses fewer latents, and fewer latents can agree more between seeds
    by themselves: what arXiv 2603.04198 leaves open. The control has no regulariser and as
    many latents as the group has alive ones (median over its seeds, alive by
    cos(encoder, decoder) > .1); all else, seeds and order of tokens included, is the group's.
    Of Matryoshka levels those narrower than the control stay, and its width is the last one.

    The mechanic ``weight_decay`` is a regulariser only where it is all that a group has of one,
    and not every group decays its weights beside some that have more: the control then goes
    without it. Else it is part of "all else".

    Args:
        name: folder of a release that ``run_sweep`` trained.

    Raises:
        InputError: if the release does not say how it was trained, has no regularised group
            (a coefficient or decay of 0 is none), or one with fewer alive latents than its k.
    """
    release = open_release(name)
    recorded = release.provenance.get("sweep")
    if release.folder is None or not isinstance(recorded, Mapping):
        raise InputError(
            f"Release {name!r} does not record how it was trained; --match-alive expected the "
            "folder of a release that 'saereg-bench train' wrote."
        )
    sweep = sweep_from(recorded, source=f"the sweep of release {name!r}")
    for path in (sweep.model, sweep.corpus):
        if is_inside(path, release.folder):
            raise InputError(
                f"The sweep of release {name!r} reads {path!r}, which is inside the release itself and "
                "may hold code; expected a model and a text of your own or public ones. Copy it "
                "to another folder if you trust it, and name that in the manifest's sweep."
            )
    register_release(release.folder)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in release.entries:
        entries[entry.group].append(entry)
    groups: dict[str, dict[str, Any]] = {}
    matched_to: dict[str, str] = {}
    given = group_fields(sweep)
    penalised = {group for group, fields in given.items() if _penalises(fields)}
    decayed = {group for group, fields in given.items() if _decays_weights(fields)}
    if penalised and len(decayed) == len(given):
        decayed = set[str]()
    for group, fields in given.items():
        if group not in entries or group not in penalised | decayed:
            continue
        control = group + SUFFIX
        width = _median_alive(release, entries[group])
        if width < max(int(fields.get("k") or 1), 1):
            raise InputError(
                f"Group {group!r} of release {name!r} has {width} alive latents (median), fewer "
                f"than k={fields.get('k')}; no SAE of that width can be trained."
            )
        groups[control] = _control(fields, width, decay=group in penalised)
        matched_to[control] = f"{release.name}/{group}"
    if not groups:
        raise InputError(
            f"Release {name!r} has no regularised group; there is nothing to match."
        )
    return replace(sweep, sae={}, groups=groups, grid={}, matched_to=matched_to)


def _control(fields: Mapping[str, Any], width: int, *, decay: bool) -> dict[str, Any]:
    """Return a group's fields without regularisers, ``width`` wide; ``decay`` keeps its decay."""
    control = {**fields, "regularizers": [], "d_sae": width}
    if levels := fields.get("matryoshka_widths"):
        control["matryoshka_widths"] = [*(w for w in levels if w < width), width]
    if not decay:
        control["mechanics"] = [
            mechanic for mechanic in fields["mechanics"] if not decays(mechanic)
        ]
    return control


def _penalises(fields: Mapping[str, Any]) -> bool:
    return any(map(acts, fields.get("regularizers") or []))


def _decays_weights(fields: Mapping[str, Any]) -> bool:
    return any(map(decays, fields.get("mechanics") or []))


def decays(mechanic: Any) -> bool:
    """Whether a mechanic, given as a mapping of its fields, is a ``weight_decay`` that acts."""
    return (
        isinstance(mechanic, Mapping)
        and mechanic.get("name") == WeightDecay.name
        and bool(mechanic.get("decay", WeightDecay.decay))
    )


def _median_alive(release: Release, entries: list[Entry]) -> int:
    counts: list[int] = []
    for entry in entries:
        sae: SAE[Any] = SAE.from_pretrained(release.name, entry.sae_id)
        alive = alive_mask(sae.W_enc.detach().T, sae.W_dec.detach())
        counts.append(int(alive.sum()))
    # Of an even number the lower one, which is a count that occurs.
    return statistics.median_low(counts)
