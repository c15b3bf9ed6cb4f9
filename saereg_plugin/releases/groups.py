"""Groups and seeds of SAEs, by expression or by YAML file."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import regex

from saereg_plugin.checks import require_name
from saereg_plugin.errors import InputError, brief, suggest
from saereg_plugin.releases.release import is_seed
from saereg_plugin.yaml_text import read_yaml

Membership = tuple[str, int | None]
"""Group (configuration) and seed of one SAE."""

SECONDS = 2
"""Longest search with an expression, over all ids of a release."""

_DIGITS = re.compile(r"[0-9]{1,18}")


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
    pattern = _compiled(expression)
    deadline = time.monotonic() + SECONDS
    members: dict[str, Membership] = {}
    for sae_id in ids:
        match = _search(pattern, sae_id, deadline - time.monotonic())
        if match is None:
            continue
        seed = match["seed"] or ""
        if not _DIGITS.fullmatch(seed):
            raise InputError(
                f"--group-by {expression!r} finds the seed {brief(seed)} in {sae_id!r}; expected "
                "digits. At most 18 of them are read."
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


def _compiled(expression: str) -> regex.Pattern[str]:
    try:
        # Python's own words for what is wrong; its searches cannot be bounded in time
        re.compile(expression)
        pattern = regex.compile(expression)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"--group-by {brief(expression)} is no regular expression: {error}."
        ) from error
    if "seed" not in pattern.groupindex:
        raise InputError(
            f"--group-by {brief(expression)} does not say where the seed is; expected a named "
            "group such as '-seed(?P<seed>[0-9]+)'."
        )
    return pattern


def _search(
    pattern: regex.Pattern[str], sae_id: str, seconds: float
) -> regex.Match[str] | None:
    try:
        return pattern.search(sae_id, timeout=max(seconds, 1e-3))
    except TimeoutError as error:
        raise InputError(
            f"--group-by {pattern.pattern!r} takes over {SECONDS} seconds on {sae_id!r}; expected "
            "an expression without repeats inside repeats, such as '(a+)+'. Name the groups in "
            "a YAML file instead."
        ) from error


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
                f"{str(path)!r} names the SAE {brief(sae_id)}. {suggest(str(sae_id), ids)}"
            )
        if (
            not isinstance(entry, dict)
            or set(entry) != {"group", "seed"}
            or not is_seed(entry["seed"])
        ):
            raise InputError(
                f"{str(path)!r}: {sae_id!r} has {brief(entry)}; expected {{group: name, seed: number}}, "
                "the number a whole one."
            )
        name = f"{str(path)!r}: the group of {sae_id!r}"
        group = require_name(name, entry["group"], slashes=True)
        members[sae_id] = (group, entry["seed"])
    return members
