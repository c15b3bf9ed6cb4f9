"""SAEs trained side by side pulled to share features (arXiv 2411.01220)."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.config import RunSettings, Schedule
from saereg_plugin.errors import InputError
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.cosines import (
    DirectionalConfig,
    DirectionalPenalty,
    Directions,
    Partners,
    best_partners,
    cosine_gradient_,
)

SAE = TypeVar("SAE", bound=TrainingSAE[Any])


class LinkedComponent(Component):
    """
    A component that knows the SAEs linked with its own by ``link_saes``.

    Put it first among the bases of a regulariser's module. A copy of it is not linked.
    """

    peers: Peers | None = None

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "peers": None}

    def linked(self) -> Peers:
        """
        Return the linked SAEs.

        Raises:
            InputError: if the SAE is linked to no other.
        """
        if self.peers is None:
            raise InputError(
                f"The regulariser {self.label} pulls several SAEs together, and this one is "
                "linked to no other. Train two or more with SAELens' MultiSAETrainingRunner, with "
                "override_saes=saereg_plugin.link_saes({name: sae, ...}), or several seeds of a "
                "group with 'saereg-bench train'; or leave the regulariser out."
            )
        return self.peers


def link_saes(saes: Mapping[str, SAE]) -> dict[str, SAE]:
    """
    Link the SAEs that have a regulariser such as ``mutual_features``; return all of ``saes``.

    For SAELens' runner: ``MultiSAETrainingRunner(cfg, override_saes=link_saes(saes))``. The
    SAEs hold each other weakly: no SAE's parameters or state dict change.

    Args:
        saes: training SAEs by name, all on one hook point. Widths may differ.

    Raises:
        InputError: if fewer than two have such a regulariser, one comes twice, they differ
            in d_in, or one is linked with others already.
    """
    linked = {name: sae for name, sae in saes.items() if _linkable(sae)}
    if len(linked) < 2:
        having = ", ".join(map(repr, linked)) or "none"
        raise InputError(
            f"link_saes was given {len(saes)} SAEs, of which {having} has a regulariser that "
            "pulls SAEs together; expected two or more. Put MutualFeatures into the regularizers "
            "of each."
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
    components = [part for sae in linked.values() for part in _linkable(sae)]
    known = {id(part.peers): part.peers for part in components}
    peers = components[0].peers or Peers(linked)
    if len(known) > 1 or peers.names != list(linked):
        raise InputError(
            f"Some of the SAEs {', '.join(map(repr, linked))} are linked with others already; "
            "expected each SAE in one call of link_saes. Build new SAEs."
        )
    for part in components:
        part.peers = peers
    return dict(saes)


def link_groups(saes: Mapping[str, SAE], groups: Mapping[str, str]) -> None:
    """Link the SAEs of each group (``groups``: SAE name to group) as ``link_saes`` does."""
    for group in dict.fromkeys(groups[name] for name in saes):
        members = {
            name: sae
            for name, sae in saes.items()
            if groups[name] == group and _linkable(sae)
        }
        if members:
            link_saes(members)


def unlink(sae: TrainingSAE[Any]) -> None:
    """Take an SAE that will not be trained further out of its link; the others stay linked."""
    for part in _linkable(sae):
        if part.peers is not None:
            part.peers.leave(part.peers.name_of(sae))


def _linkable(sae: TrainingSAE[Any]) -> list[LinkedComponent]:
    return [part for part in sae.modules() if isinstance(part, LinkedComponent)]


class Snapshot(NamedTuple):
    """The decoder directions of one SAE at the beginning of a step."""

    step: int
    version: tuple[int, int]
    """Identity of the weights."""
    unit: torch.Tensor
    """[d_sae, d_in] unit rows."""


class Peers:
    """
    A set of linked SAEs, held weakly: none becomes a part of another.

    In step t each SAE sees the decoders of the others as they were at the end of step
    t - 1. An SAE that has not stepped yet is read directly; an SAE that has is remembered
    from its own forward pass. So the order in which a trainer steps them changes nothing.
    """

    def __init__(self, saes: Mapping[str, TrainingSAE[Any]]):
        self._saes = {name: weakref.ref(sae) for name, sae in saes.items()}
        self._left: dict[str, int] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._partners: dict[tuple[str, str], tuple[Snapshot, Snapshot, Partners]] = {}

    @property
    def names(self) -> list[str]:
        """All SAEs that were linked, in order."""
        return list(self._saes)

    def sae(self, name: str) -> TrainingSAE[Any]:
        """
        Return a linked SAE.

        Raises:
            InputError: if the SAE was deleted.
        """
        sae = self._saes[name]()
        if sae is None:
            raise InputError(
                f"SAE {name!r} was linked with others and deleted since; expected all "
                "linked SAEs to be trained. Link those that are."
            )
        return sae

    def name_of(self, sae: TrainingSAE[Any]) -> str:
        """Return the name under which ``sae`` was linked."""
        return next(name for name, known in self._saes.items() if known() is sae)

    def completed(self, name: str) -> int:
        """Return the number of optimiser steps that an SAE has completed."""
        return cast(Any, self.sae(name)).step_index

    def leave(self, name: str) -> None:
        """Take an SAE out: after its completed steps no other sees it."""
        self._left[name] = self.completed(name)

    def others(self, name: str, step: int) -> list[str]:
        """Return the other SAEs that take part in ``step``, in order of names."""
        return [
            other
            for other in sorted(self._saes)
            if other != name and self._left.get(other, step + 1) > step
        ]

    def unit_rows(self, name: str, step: int) -> torch.Tensor:
        """
        Return an SAE's decoder directions [d_sae, d_in] at the beginning of ``step``.

        Raises:
            InputError: if it is not trained in step with the one that asks.
        """
        return self._snapshot(name, step).unit

    def is_finite(self, name: str, step: int) -> bool:
        """
        Whether an SAE's decoder is finite at the beginning of ``step``.

        A trainer takes an SAE that broke out only after its next forward pass.
        """
        return bool(self.unit_rows(name, step).sum().isfinite())

    def partners(self, name: str, other: str, step: int) -> torch.Tensor:
        """Return for each latent of ``name`` the most similar one of ``other``, int64."""
        # one product serves both, in the same order for both
        first, second = sorted((name, other))
        a, b = self._snapshot(first, step), self._snapshot(second, step)
        known = self._partners.get((first, second))
        if known is None or known[0] is not a or known[1] is not b:
            known = (a, b, best_partners(a.unit, b.unit.to(a.unit)))
            self._partners[first, second] = known
        return known[2].a_to_b if name == first else known[2].b_to_a

    def forget(self, name: str) -> None:
        """Drop the snapshot of an SAE, after its weights were loaded from a checkpoint."""
        self._snapshots.pop(name, None)

    def _snapshot(self, name: str, step: int) -> Snapshot:
        sae = self.sae(name)
        completed = self.completed(name)
        known = self._snapshots.get(name)
        if completed == step:
            version = (sae.W_dec.data_ptr(), sae.W_dec._version)
            if known is None or (known.step, known.version) != (step, version):
                known = Snapshot(step, version, Directions.of(sae.W_dec).unit)
                self._snapshots[name] = known
            return known
        if completed == step + 1 and known is not None and known.step == step:
            return known
        raise InputError(
            f"Linked SAEs are not trained side by side: {name!r} has "
            f"completed {completed} steps, another {step}. Train them with SAELens' "
            "MultiSAETrainingRunner (or step each once in every round), from checkpoints of one step."
        )


RAMP_STEPS = 100
"""Steps of the ramp of the coefficient (arXiv 2411.01220: about 100)."""


@register_regularizer("mutual_features")
@dataclass(frozen=True, kw_only=True)
class MutualFeatures(DirectionalConfig):
    """
    ``coefficient * mean_B (1 - MMCS(A, B))`` over the SAEs B linked with this one, A.

    arXiv 2411.01220: ``MMCS(A, B) = mean_i max_j cos(a_i, b_j)`` over decoder rows, peers
    detached. The SAEs of one run are linked by ``saereg_plugin.link_saes``. The paper
    states no coefficient.

    Args:
        schedule: by default a ramp of 100 steps.
        every: apply the penalty in every n-th step only, n times as strong.
    """

    schedule: Schedule = field(
        default_factory=lambda: Schedule(warm_up_steps=RAMP_STEPS)
    )

    @override
    def check_run(self, settings: RunSettings) -> None:
        others = (
            each for sae in settings.others for each in getattr(sae, "regularizers", ())
        )
        if not any(isinstance(each, MutualFeatures) for each in others):
            raise InputError(
                f"{self.name} pulls SAEs together that are trained side by side, and this run "
                "(or group) trains a single one with it. Train two seeds or more of a group with "
                "'saereg-bench train', use MultiSAETrainingRunner(cfg, "
                "override_saes=saereg_plugin.link_saes(saes)), or leave the regulariser out."
            )

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> MutualFeaturesModule:
        return MutualFeaturesModule(self, label=label)


class MutualFeaturesModule(LinkedComponent, DirectionalPenalty):
    """The penalty of one linked SAE."""

    @override
    def setup(self, sae: TrainingSAE[Any]) -> None:
        peers = self.linked()
        name = peers.name_of(sae)
        peers.forget(name)
        hook = sae.cfg.metadata.hook_name
        for other in peers.others(name, peers.completed(name)):
            found = peers.sae(other).cfg.metadata.hook_name
            if found != hook:
                raise InputError(
                    f"SAEs {name!r} and {other!r} are linked for {self.label} and read "
                    f"{hook!r} and {found!r}; expected one hook. Link the SAEs of each hook on "
                    "their own: {**link_saes(first), **link_saes(second)}."
                )

    @override
    def loss(self, step: Step) -> torch.Tensor:
        peers = self.linked()
        with torch.no_grad():
            # remembered now, for those that step after this one
            peers.unit_rows(peers.name_of(step.sae), step.index)
        return super().loss(step)

    @override
    def measure(
        self, step: Step, own: Directions
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        peers = self.linked()
        name = peers.name_of(step.sae)
        others = [
            other
            for other in peers.others(name, step.index)
            if peers.is_finite(other, step.index)
        ]
        if not others:
            self.logged = {"peers": 0.0}
            return own.unit.new_zeros(()), None
        pull = torch.zeros_like(own.unit)
        for other in others:
            found = peers.partners(name, other, step.index)
            rows = peers.unit_rows(other, step.index)
            rows = rows.index_select(0, found.to(rows.device))
            pull.add_(rows.to(pull), alpha=1 / len(others))
        similarity = (pull * own.unit).sum(dim=1)
        mmcs = similarity.mean()
        self.logged = {"mmcs": mmcs, "peers": float(len(others))}
        return 1 - mmcs, cosine_gradient_(own, pull, similarity, -1 / len(pull))
