"""Decoupled weight decay (AdamW, arXiv 1711.05101)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from typing_extensions import override

from saereg_plugin.architectures.parameters import WEIGHTS
from saereg_plugin.component import Component
from saereg_plugin.config import MechanicConfig, choice, number
from saereg_plugin.errors import InputError
from saereg_plugin.registry import register_mechanic

DecayTarget = Literal["all", "both", "encoder", "decoder"]


@register_mechanic("weight_decay")
@dataclass(frozen=True, kw_only=True)
class WeightDecay(MechanicConfig):
    """
    ``w <- w (1 - lr decay)`` before Adam's step, with the step's learning rate.

    arXiv 1711.05101, algorithm 2. With the target ``all`` SAELens' Adam becomes
    ``torch.optim.AdamW`` bit for bit (up to rounding where a sparse step makes it fused).

    Args:
        decay: weight decay, finite and 0 or more. 0.01 is torch's default.
        target: ``all`` parameters, biases too, as AdamW; ``both`` weight matrices; the
            ``encoder`` W_enc; the ``decoder`` W_dec.
    """

    order: ClassVar[int] = 40

    decay: float = number(0.01, lambda v: v >= 0, "a finite number, 0 or more")
    target: DecayTarget = choice("all", DecayTarget)

    @override
    def check(self, sae_cfg: Any) -> None:
        if sae_cfg.unit_norm and self.target in ("both", "decoder"):
            raise InputError(
                f"weight_decay: target={self.target!r} does nothing to a decoder of unit-norm rows, "
                "which are renormalised after every step. Use target='encoder' (or 'all', as AdamW "
                "does, which still decays encoder and biases), or decoder_constraint='none'."
            )

    @override
    def build(self, sae_cfg: Any, *, seed: int) -> WeightDecayModule:
        return WeightDecayModule(self)


class WeightDecayModule(Component):
    """The decay in training."""

    def __init__(self, cfg: WeightDecay):
        super().__init__(label=cfg.name)
        self.cfg = cfg

    @override
    def before_step(self, lr: float) -> None:
        for name, parameter in self.sae.named_parameters():
            # as in torch's optimisers: what has no gradient takes no step
            if parameter.grad is not None and self._decays(name):
                parameter.mul_(1 - lr * self.cfg.decay)

    def _decays(self, name: str) -> bool:
        return self.cfg.target == "all" or name in WEIGHTS[self.cfg.target]
