"""SAEs trained side by side pulled to share features (arXiv 2411.01220)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.component import Step
from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.schedules import Schedule
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.cosines import Directions, cosine_gradient_
from saereg_plugin.regularizers.directional import DirectionalConfig, DirectionalPenalty
from saereg_plugin.regularizers.peers import Peers

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
