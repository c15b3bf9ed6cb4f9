"""Link the SAEs of one run, so that mutual_features can pull them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from sae_lens import TrainingSAE, TrainingSAEConfig

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import RegularizedConfigMixin
from saereg_plugin.errors import InputError
from saereg_plugin.regularizers.mutual_features import (
    MutualFeatures,
    MutualFeaturesModule,
    Peers,
)

SAE = TypeVar("SAE", bound=TrainingSAE[Any])


def link_saes(saes: Mapping[str, SAE]) -> dict[str, SAE]:
    """
    Link those of ``saes`` that have the regulariser ``mutual_features``; return all.

    For SAELens' runner: ``MultiSAETrainingRunner(cfg, override_saes=link_saes(saes))``. The
    SAEs hold each other weakly: no SAE's parameters or state dict change.

    Args:
        saes: training SAEs by name, all on one hook point. Widths may differ.

    Raises:
        InputError: if fewer than two have the regulariser, one comes twice, they differ in
            d_in, or one is linked with others already.
    """
    linked = {name: sae for name, sae in saes.items() if modules_of(sae)}
    if len(linked) < 2:
        having = ", ".join(map(repr, linked)) or "none"
        raise InputError(
            f"link_saes was given {len(saes)} SAEs, of which {having} has the regulariser "
            "mutual_features; expected two or more. Put MutualFeatures into the regularizers of each."
        )
    if len({id(sae) for sae in linked.values()}) < len(linked):
        raise InputError(
            "link_saes was given the same SAE under two names; expected different SAEs."
        )
    widths = {name: sae.cfg.d_in for name, sae in linked.items()}
    if len(set(widths.values())) > 1:
        raise InputError(
            f"SAEs to be linked have different d_in ({widths}); expected one, as cosines are "
            "between their decoder rows."
        )
    known = {id(peers): peers for sae in linked.values() for peers in _peers_of(sae)}
    if not known:
        peers = Peers(linked)
        for sae in linked.values():
            for module in modules_of(sae):
                module.peers = peers
        return dict(saes)
    same = len(known) == 1 and all(_peers_of(sae) for sae in linked.values())
    if not same or next(iter(known.values())).names != list(linked):
        raise InputError(
            f"Some of the SAEs {', '.join(map(repr, linked))} are linked with others already; "
            "expected each SAE in one call of link_saes. Build new SAEs."
        )
    return dict(saes)


def link_groups(saes: Mapping[str, SAE], groups: Mapping[str, str]) -> None:
    """
    Link the SAEs of each group (``groups``: SAE name to group) that have mutual_features.

    Raises:
        InputError: see ``require_peers``.
    """
    require_peers((groups[name], sae.cfg) for name, sae in saes.items())
    for group in dict.fromkeys(groups[name] for name in saes):
        members = {
            name: sae
            for name, sae in saes.items()
            if groups[name] == group and modules_of(sae)
        }
        if members:
            link_saes(members)


def require_peers(members: Iterable[tuple[str, TrainingSAEConfig]]) -> None:
    """
    Refuse a group in which mutual_features would have nobody to share with; builds nothing.

    Args:
        members: (group, configuration) of every SAE.

    Raises:
        InputError: naming the group.
    """
    counts: dict[str, int] = {}
    for group, cfg in members:
        if isinstance(cfg, RegularizedConfigMixin) and any(
            isinstance(regularizer, MutualFeatures) for regularizer in cfg.regularizers
        ):
            counts[group] = counts.get(group, 0) + 1
    for group, count in counts.items():
        if count < 2:
            raise InputError(
                f"Group {group!r} has the regulariser mutual_features and a single seed; expected "
                "two or more, which it pulls together. Add seeds, or leave the regulariser out."
            )


def unlink(sae: TrainingSAE[Any]) -> None:
    """Take an SAE that will not be trained further out of its link; the others go on."""
    for module in modules_of(sae):
        if module.peers is not None:
            module.peers.leave(module.peers.name_of(sae))


def modules_of(sae: TrainingSAE[Any]) -> list[MutualFeaturesModule]:
    """Return the mutual_features modules of an SAE."""
    if not isinstance(sae, RegularizedMixin):
        return []
    return [
        part
        for part in sae.components.values()
        if isinstance(part, MutualFeaturesModule)
    ]


def _peers_of(sae: TrainingSAE[Any]) -> list[Peers]:
    return [part.peers for part in modules_of(sae) if part.peers is not None]
