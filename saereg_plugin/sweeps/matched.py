"""The control of a regularised group: unregularised SAEs as wide as its alive latents."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sae_lens import SAE

from saereg_plugin.errors import InputError
from saereg_plugin.metrics import alive_mask
from saereg_plugin.regularizers import acts
from saereg_plugin.release_opening import open_release
from saereg_plugin.release_registration import register_release
from saereg_plugin.releases import Entry, Release
from saereg_plugin.sweeps.config import SweepConfig, group_fields, sweep_from

SUFFIX = "-matched"


def matched_sweep(name: str) -> SweepConfig:
    """
    Return the sweep that trains a width-matched control for every regularised group.

    A regularised SAE uses fewer latents, and fewer latents can agree more between seeds
    by themselves: what arXiv 2603.04198 leaves open. The control has no regulariser and as
    many latents as the group has alive ones (median over its seeds, alive by
    cos(encoder, decoder) > .1); all else, seeds and order of tokens included, is the group's.

    Args:
        name: folder of a release that ``run_sweep`` trained.

    Raises:
        InputError: if the release does not say how it was trained, has no regularised group
            (a coefficient of 0 is none), or one with fewer alive latents than its k.
    """
    release = open_release(name)
    recorded = release.provenance.get("sweep")
    if release.folder is None or not isinstance(recorded, Mapping):
        raise InputError(
            f"Release {name!r} does not record how it was trained; --match-alive expected the "
            "folder of a release that 'saereg-bench train' wrote."
        )
    sweep = sweep_from(recorded, source=f"the sweep of release {name!r}")
    register_release(release.folder)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in release.entries:
        entries[entry.group].append(entry)
    groups: dict[str, dict[str, Any]] = {}
    matched_to: dict[str, str] = {}
    for group, fields in group_fields(sweep).items():
        if group not in entries or not any(map(acts, fields.get("regularizers") or [])):
            continue
        control = group + SUFFIX
        width = _median_alive(release, entries[group])
        if width < max(int(fields.get("k") or 1), 1):
            raise InputError(
                f"Group {group!r} of release {name!r} has {width} alive latents (median), fewer "
                f"than k={fields.get('k')}; no SAE of that width can be trained."
            )
        groups[control] = {**fields, "regularizers": [], "d_sae": width}
        matched_to[control] = f"{release.name}/{group}"
    if not groups:
        raise InputError(
            f"Release {name!r} has no regularised group; there is nothing to match."
        )
    return replace(sweep, sae={}, groups=groups, grid={}, matched_to=matched_to)


def _median_alive(release: Release, entries: list[Entry]) -> int:
    counts: list[int] = []
    for entry in entries:
        sae: SAE[Any] = SAE.from_pretrained(release.name, entry.sae_id)
        alive = alive_mask(sae.W_enc.detach().T, sae.W_dec.detach())
        counts.append(int(alive.sum()))
    # Of an even number the lower one, which is a count that occurs.
    return statistics.median_low(counts)
