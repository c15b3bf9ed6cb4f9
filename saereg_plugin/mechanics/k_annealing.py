"""Annealing of k from d_in to its final value (arXiv 2603.04198)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from typing_extensions import override

from saereg_plugin.component import Component
from saereg_plugin.config import MechanicConfig, count
from saereg_plugin.errors import InputError
from saereg_plugin.registry import register_mechanic


@register_mechanic("k_annealing")
@dataclass(frozen=True, kw_only=True)
class KAnnealing(MechanicConfig):
    """
    Train with ``int(d_in (1 - r) + k r)`` active latents, ``r = t / steps``, then with k.

    arXiv 2603.04198, language-model runs, over the first 1 % of steps; t is the number of
    completed steps. Never more than d_sae. Only training passes use it: ``cfg.k``, the
    saved SAE and everything else has the final k.

    Args:
        steps: length of the annealing, 1 or more.
    """

    order: ClassVar[int] = 0

    steps: int = count(1000)

    @override
    def check(self, sae_cfg: Any) -> None:
        if getattr(sae_cfg, "k", None) is None:
            raise InputError(
                f"k_annealing: {sae_cfg.architecture()} has no k to anneal. "
                "Use regularized_topk, regularized_batchtopk or regularized_matryoshka_batchtopk."
            )

    @override
    def build(self, sae_cfg: Any, *, seed: int) -> KAnnealingModule:
        return KAnnealingModule(self)


class KAnnealingModule(Component):
    """
    The annealing in training: k is set for a forward pass and reset after it.

    Dense and sparse steps read k from the SAE's activation function.
    """

    def __init__(self, cfg: KAnnealing):
        super().__init__(label=cfg.name)
        self.cfg = cfg

    @override
    def prepare(self, sae_in: torch.Tensor) -> torch.Tensor:
        sae = cast(Any, self.sae)
        k = annealed_k(
            sae.step_index,
            steps=self.cfg.steps,
            d_in=sae.cfg.d_in,
            d_sae=sae.cfg.d_sae,
            k=sae.cfg.k,
        )
        sae.activation_fn.k = k
        self.logged = {"k": float(k)}
        return sae_in

    @override
    def end_pass(self) -> None:
        sae = cast(Any, self.sae)
        sae.activation_fn.k = sae.cfg.k


def annealed_k(step: int, *, steps: int, d_in: int, d_sae: int, k: float) -> float:
    """Return k after ``step`` completed steps; the final k (an integer or not) at the end."""
    if step >= steps:
        return k
    r = step / steps
    return min(max(int(d_in * (1 - r) + k * r), 1), d_sae)
