"""SAEs trained side by side pulled to share features (arXiv 2411.01220)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.component import Step
from saereg_plugin.config import RunSettings, Schedule
from saereg_plugin.errors import InputError
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.cosines import (
    DirectionalConfig,
    DirectionalPenalty,
    Directions,
    cosine_gradient_,
)
from saereg_plugin.regularizers.peers import LinkedComponent

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
