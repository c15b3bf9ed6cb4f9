"""
Hooks around the steps of the optimiser that SAELens builds.

SAELens' trainers construct Adam, clip at 1.0 and have no hook after the step, so two of
PyTorch's global optimiser hooks lead from an optimiser to the SAE that owns its parameters.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

_OWNER = "_saereg_owner"


@runtime_checkable
class StepsWithOptimizer(Protocol):
    """An SAE that acts around the optimiser's step."""

    def before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None: ...

    def after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None: ...


class Owner:
    """A weak reference from a parameter to its SAE; copies and pickles come out empty."""

    def __init__(self, sae: StepsWithOptimizer | None = None):
        self._reference = None if sae is None else weakref.ref(sae)

    def __call__(self) -> StepsWithOptimizer | None:
        return None if self._reference is None else self._reference()

    def __reduce__(self) -> tuple[type[Owner], tuple[()]]:
        return Owner, ()


def claim(parameter: nn.Parameter, sae: StepsWithOptimizer) -> bool:
    """
    Make ``sae`` the owner of ``parameter``; return False if it already was.

    Called in every forward pass, because ``load_from_disk`` replaces the
    parameters of an SAE.
    """
    owner = getattr(parameter, _OWNER, None)
    if isinstance(owner, Owner) and owner() is sae:
        return False
    setattr(parameter, _OWNER, Owner(sae))
    return True


def owner_of(optimizer: torch.optim.Optimizer) -> StepsWithOptimizer | None:
    """Return the SAE of this package that ``optimizer`` trains, if there is one."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # isinstance: after a second import of this package the two sets of
            # hooks must each see their own SAEs only
            owner = getattr(parameter, _OWNER, None)
            if isinstance(owner, Owner):
                return owner()
    return None


def register_hooks() -> None:
    """Register the two global hooks; called once, when the package is imported."""
    register_optimizer_step_pre_hook(_before)
    register_optimizer_step_post_hook(_after)


@torch.no_grad()
def _before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    sae = owner_of(optimizer)
    if sae is not None:
        sae.before_optimizer_step(optimizer)


@torch.no_grad()
def _after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    sae = owner_of(optimizer)
    if sae is not None:
        sae.after_optimizer_step(optimizer)


def use_fused_adam(optimizer: torch.optim.Optimizer) -> None:
    """
    Switch SAELens' Adam to PyTorch's fused implementation, a fourth of the time.

    It reads its choice from ``param_groups`` at every step; checkpoints keep it.
    """
    if type(optimizer) is not torch.optim.Adam:
        return
    for group in optimizer.param_groups:
        if group.get("fused") or group.get("foreach") or group.get("differentiable"):
            continue
        group["fused"] = True
        for parameter in group["params"]:
            # the fused kernel counts its steps on the parameter's device
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                step = cast(torch.Tensor, state["step"])
                state["step"] = step.to(parameter.device)
