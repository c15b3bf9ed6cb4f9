"""Which SAEs of a release differ only in their seed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.yaml_text import read_yaml

Membership = tuple[str, int | None]
"""Group (configuration) and seed of one SAE."""


def group_saes(sae_ids: Iterable[str], group_by: str | None) -> dict[str, Membership]:
    """
    Return group and seed of each SAE.

    Args:
        sae_ids: ids of a release.
        group_by: a regular expression with the named group ``seed`` and, if wanted,
            ``group`` (else the id without the seed is the group), matched anywhere in the
            id; or a YAML file that maps ids to ``{group: ..., seed: ...}``. None makes
            each SAE a group of its own.

    Raises:
        InputError: if the expression or the file cannot be used, or matches no SAE.

    >>> group_saes(["k32/seed0", "k32/seed1"], r"/seed(?P<seed>[0-9]+)")
    {'k32/seed0': ('k32', 0), 'k32/seed1': ('k32', 1)}
    """
    ids = list(sae_ids)
    if group_by is None:
        return {sae_id: (sae_id, None) for sae_id in ids}
    if group_by.endswith((".yaml", ".yml")):
        return _from_yaml(ids, Path(group_by))
    return _from_regex(ids, group_by)


def _from_regex(ids: list[str], expression: str) -> dict[str, Membership]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(
            f"--group-by {expression!r} is no regular expression: {error}."
        ) from error
    if "seed" not in pattern.groupindex:
        raise InputError(
            f"--group-by {expression!r} does not say where the seed is; expected a named group "
            "such as 'seed(?P<seed>[0-9]+)'."
        )
    members: dict[str, Membership] = {}
    for sae_id in ids:
        match = pattern.search(sae_id)
        if match is None:
            continue
        seed = match["seed"] or ""
        if not seed.isdecimal():
            raise InputError(
                f"--group-by {expression!r} finds the seed {seed!r} in {sae_id!r}; expected digits."
            )
        if "group" in pattern.groupindex:
            group = match["group"] or ""
        else:
            group = sae_id[: match.start()] + sae_id[match.end() :]
        members[sae_id] = (group, int(seed))
    if not members:
        raise InputError(
            f"--group-by {expression!r} matches none of the {len(ids)} SAEs, for example {ids[0]!r}."
        )
    return members


def _from_yaml(ids: list[str], path: Path) -> dict[str, Membership]:
    table: Any = read_yaml(path)
    if not isinstance(table, dict):
        raise InputError(
            f"{str(path)!r} must map SAE ids to {{group: ..., seed: ...}}."
        )
    members: dict[str, Membership] = {}
    for sae_id, entry in table.items():
        if sae_id not in ids:
            raise InputError(
                f"{str(path)!r} names the SAE {sae_id!r}. {suggest(str(sae_id), ids)}"
            )
        try:
            members[sae_id] = (str(entry["group"]), int(entry["seed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{str(path)!r}: {sae_id!r} has {entry!r}; expected {{group: name, seed: number}}."
            ) from error
    return members
