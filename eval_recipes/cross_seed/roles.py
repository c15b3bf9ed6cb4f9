"""A group's role in a comparison: penalty, strength, matched width."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_recipes.results.subject import Subject
from eval_recipes.results.tidy import architecture
from saereg_plugin.errors import InputError
from saereg_plugin.registry import acts, decays
from saereg_plugin.releases.release import LOADER, MANIFEST, read_release

MATCHED_TO = "matched_to"
"""Field of a release's provenance: group -> "release/group" whose alive count is its width."""


@dataclass(frozen=True)
class Role:
    """A group's role in a comparison; ``name`` is "release/group"."""

    name: str
    base: str
    """Settings, except the width, that comparable groups share."""
    d_sae: int
    k: int | None
    penalty: str | None
    """The only regulariser without its coefficient, else None."""
    coefficient: float | None
    """0 without a regulariser; None with several, or with one annealed from 0."""
    matched_to: str | None = None
    undecayed: str | None = None
    """``base`` without the mechanic ``weight_decay``; None for a group without it."""

    @property
    def regularised(self) -> bool:
        """Whether it has one coefficient, or only decaying weights."""
        return bool(self.coefficient) or self.decays_only

    @property
    def decays_only(self) -> bool:
        """Whether ``weight_decay`` is its only regulariser."""
        return self.coefficient == 0 and self.undecayed is not None


def role_of(subject: Subject, cfg: Mapping[str, Any]) -> Role:
    """
    Return the role of an SAE's group, from its configuration and its release's record.

    ``cfg`` is ``sae_cfg_dict`` of its result.

    Raises:
        InputError: if the release's record of matched widths cannot be read.
    """
    metadata = cfg.get("metadata") or {}
    details = dict(metadata.get("training_architecture_details") or {})
    given = details.pop("regularizers", None) or []
    for varying in ("init_seed", "d_sae"):
        details.pop(varying, None)
    acting = [item for item in given if acts(item)]
    k = cfg.get("k", details.get("k"))
    penalty = (
        _text({key: acting[0][key] for key in acting[0] if key != "coefficient"})
        if len(acting) == 1
        else None
    )
    base = {
        "architecture": architecture(cfg),
        "d_in": cfg.get("d_in"),
        "k": k,
        "model": metadata.get("model_name"),
        "hook": metadata.get("hook_name"),
        "details": details,
    }
    mechanics = details.get("mechanics") or []
    kept = [mechanic for mechanic in mechanics if not decays(mechanic)]
    undecayed = {**base, "details": {**details, "mechanics": kept}}
    return Role(
        name=f"{subject.release}/{subject.group}",
        base=_text(base),
        d_sae=int(cfg["d_sae"]),
        k=k,
        penalty=penalty,
        coefficient=_coefficient(acting),
        matched_to=matched_to(subject),
        undecayed=_text(undecayed) if len(kept) < len(mechanics) else None,
    )


def _coefficient(acting: list[Any]) -> float | None:
    """Return the only coefficient; None if it is annealed from 0."""
    if not acting:
        return 0.0
    return (acting[0].get("coefficient") or None) if len(acting) == 1 else None


def matched_to(subject: Subject) -> str | None:
    """
    Return "release/group" of the group whose alive count is this group's width.

    It is in the manifest of the release folder, ``saereg: matched_to: {group: ...}``. None
    without an entry, and for releases outside this project.

    Raises:
        InputError: if the field is no mapping of names.
    """
    from sae_lens.loading.pretrained_saes_directory import (
        get_pretrained_saes_directory,
    )

    known = get_pretrained_saes_directory().get(subject.release)
    if known is None or known.conversion_func != LOADER:
        return None
    if not Path(known.repo_id, MANIFEST).is_file():
        return None
    record: Any = read_release(known.repo_id).provenance.get(MATCHED_TO) or {}
    if not isinstance(record, Mapping):
        raise InputError(
            f"Release {subject.release!r} records {MATCHED_TO} = {record!r}; expected a "
            "mapping of its groups to 'release/group'. Train it again with --match-alive."
        )
    target = record.get(subject.group)
    if target is not None and (not isinstance(target, str) or "/" not in target):
        raise InputError(
            f"Release {subject.release!r} records {MATCHED_TO} of group "
            f"{subject.group!r} as {target!r}; expected 'release/group'."
        )
    return target


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
