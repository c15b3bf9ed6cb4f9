"""Which groups are a regularised group's controls, and which its family."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from eval_recipes.width_control.result_groups import ResultGroup
from saereg_plugin.errors import InputError

logger = logging.getLogger(__name__)


def wide_control(
    group: ResultGroup, groups: Sequence[ResultGroup]
) -> ResultGroup | None:
    """
    Return the unregularised group of the same configuration and width.

    Of a group with a regulariser that is one with all its mechanics; of one that only decays
    its weights one without that. Of several the one of the same release, which shares its data.

    Raises:
        InputError: if several are left.
    """
    role = group.role
    base = role.undecayed if role.decays_only else role.base
    found = [
        other
        for other in groups
        if other.role.coefficient == 0
        and other.role.matched_to is None
        and (other.role.base, other.role.d_sae) == (base, role.d_sae)
    ]
    release = group.role.name.removesuffix(group.group)
    own = [other for other in found if other.role.name.startswith(release)]
    return _only_one(own or found, group, "unregularised groups of its width")


def matched_control(
    group: ResultGroup, groups: Sequence[ResultGroup]
) -> ResultGroup | None:
    """
    Return the group whose release says that it has this one's alive count as width.

    Raises:
        InputError: if several say so.
    """
    found = [other for other in groups if other.role.matched_to == group.role.name]
    return _only_one(found, group, "width-matched controls")


def _only_one(
    found: Sequence[ResultGroup], group: ResultGroup, what: str
) -> ResultGroup | None:
    if len(found) > 1:
        names = ", ".join(repr(other.role.name) for other in found)
        raise InputError(
            f"Group {group.role.name!r} has several {what}: {names}; expected one. Evaluate "
            "each with the group into a folder of its own."
        )
    return found[0] if found else None


def family_of(
    group: ResultGroup, groups: Sequence[ResultGroup], wide: ResultGroup | None
) -> list[ResultGroup]:
    """
    Return the groups that differ from this one in the coefficient only, 0 among them.

    In the order of the coefficient. Of several with one coefficient the one of the same
    release.

    Raises:
        InputError: if several of one coefficient are left.
    """
    role = group.role
    release = role.name.removesuffix(group.group)
    by_coefficient: dict[float, list[ResultGroup]] = {}
    for other in groups:
        key = (other.role.base, other.role.d_sae, other.role.penalty)
        if other.role.coefficient and key == (role.base, role.d_sae, role.penalty):
            by_coefficient.setdefault(other.role.coefficient, []).append(other)
    family: dict[float, ResultGroup] = {}
    for coefficient, found in by_coefficient.items():
        own = [other for other in found if other.role.name.startswith(release)]
        what = f"groups with the coefficient {coefficient:g} in its family"
        one = _only_one(own or found, group, what)
        if one is not None:
            family[coefficient] = one
    if role.coefficient:
        family[role.coefficient] = group
    if wide is not None:
        family[0.0] = wide
    return [family[coefficient] for coefficient in sorted(family)]


def warn_of_controls_without_group(groups: Sequence[ResultGroup]) -> None:
    """Log a warning for each control whose regularised group is not among the results."""
    names = {group.role.name for group in groups}
    for group in groups:
        target = group.role.matched_to
        if target is not None and target not in names:
            logger.warning(
                "Group %r is the width-matched control of %r, of which there is no result here: "
                "it is compared with nothing. Evaluate that group into the same folder; if its "
                "release was renamed, correct 'matched_to' in the control's release.yaml and "
                "evaluate the control again.",
                group.role.name,
                target,
            )
