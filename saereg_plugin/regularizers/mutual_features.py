"""SAEs trained side by side pulled to share features (arXiv 2411.01220)."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.component import Step
from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.schedules import Schedule
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.cosines import (
    DirectionalConfig,
    DirectionalPenalty,
    Directions,
    Partners,
    best_partners,
    cosine_gradient_,
)

if TYPE_CHECKING:
    from saereg_plugin.architectures.base import RegularizedMixin


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
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> MutualFeaturesModule:
        return MutualFeaturesModule(self, label=label)


class MutualFeaturesModule(DirectionalPenalty):
    """The penalty of one SAE of a link. A copy of it is not linked."""

    cfg: MutualFeatures

    def __init__(self, cfg: MutualFeatures, *, label: str):
        super().__init__(cfg, label=label)
        self.peers: Peers | None = None

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "peers": None}

    @override
    def setup(self, sae: TrainingSAE[Any]) -> None:
        peers = self._linked()
        name = peers.name_of(sae)
        peers.forget(name)
        hook = sae.cfg.metadata.hook_name
        for other in peers.others(name, peers.completed(name)):
            found = peers.sae(other).cfg.metadata.hook_name
            if found != hook:
                raise InputError(
                    f"SAEs {name!r} and {other!r} are linked for mutual_features and read "
                    f"{hook!r} and {found!r}; expected one hook. Link the SAEs of each hook on "
                    "their own: {**link_saes(first), **link_saes(second)}."
                )

    @override
    def loss(self, step: Step) -> torch.Tensor:
        peers = self._linked()
        with torch.no_grad():
            # remembered now, for those that step after this one
            peers.unit_rows(peers.name_of(step.sae), step.index)
        return super().loss(step)

    @override
    def measure(
        self, step: Step, own: Directions
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        peers = self._linked()
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

    def _linked(self) -> Peers:
        if self.peers is None:
            raise InputError(
                "The regulariser mutual_features pulls several SAEs together, and this one is "
                "linked to no other. Train two or more with SAELens' MultiSAETrainingRunner, with "
                "override_saes=saereg_plugin.link_saes({name: sae, ...}), or several seeds of a "
                "group with 'saereg-bench train'; or leave the regulariser out."
            )
        return self.peers


class Snapshot(NamedTuple):
    """The decoder directions of one SAE at the beginning of a step."""

    step: int
    version: tuple[int, int]
    """Identity of the weights they were taken of."""
    unit: torch.Tensor
    """[d_sae, d_in] unit rows."""


class Peers:
    """
    A set of linked SAEs, held weakly: none becomes a part of another.

    In step t everybody sees everybody's decoder as it was at the end of step t - 1. An SAE
    that has not stepped yet is read directly; one that has is remembered from its own
    forward pass. So the order in which a trainer steps them changes nothing.
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
            InputError: if nobody else holds it any more.
        """
        sae = self._saes[name]()
        if sae is None:
            raise InputError(
                f"SAE {name!r} was linked for mutual_features and deleted since; expected all "
                "linked SAEs to be trained. Link those that are."
            )
        return sae

    def name_of(self, sae: TrainingSAE[Any]) -> str:
        """Return under which name ``sae`` was linked."""
        return next(name for name, known in self._saes.items() if known() is sae)

    def completed(self, name: str) -> int:
        """Return how many optimiser steps an SAE has completed."""
        return cast("RegularizedMixin", self.sae(name)).step_index

    def leave(self, name: str) -> None:
        """Take an SAE out: after the steps it has completed nobody sees it."""
        self._left[name] = self.completed(name)

    def others(self, name: str, step: int) -> list[str]:
        """Return who takes part in ``step`` besides ``name``, in order of names."""
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
        # one product serves both, and is the same whoever asks first
        first, second = sorted((name, other))
        a, b = self._snapshot(first, step), self._snapshot(second, step)
        known = self._partners.get((first, second))
        if known is None or known[0] is not a or known[1] is not b:
            known = (a, b, best_partners(a.unit, b.unit.to(a.unit)))
            self._partners[first, second] = known
        return known[2].a_to_b if name == first else known[2].b_to_a

    def forget(self, name: str) -> None:
        """Drop what is remembered of an SAE, after its weights were loaded anew."""
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
            f"SAEs linked for mutual_features are not trained side by side: {name!r} has "
            f"completed {completed} steps, another {step}. Train them with SAELens' "
            "MultiSAETrainingRunner (or step each once in every round), from checkpoints of one step."
        )
