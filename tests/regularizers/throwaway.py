"""Regularisers that only the tests know: one with state, one that moves weights, one that watches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import TrainingSAE
from torch import nn
from typing_extensions import override

import saereg_plugin as sr

DECAY = 0.9


@sr.register_regularizer("test_noisy_firing")
@dataclass(frozen=True, kw_only=True)
class NoisyFiring(sr.RegularizerConfig):
    """``coefficient * mean_i sum_j noise_j |z_ij|``, with a running firing rate."""

    logged_only: bool = False

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> NoisyFiringModule:
        return NoisyFiringModule(self, sae_cfg.d_sae, label=label, seed=seed)


class NoisyFiringModule(sr.Component):
    draws = True
    rate: torch.Tensor

    def __init__(self, cfg: NoisyFiring, d_sae: int, *, label: str, seed: int):
        super().__init__(label=label, seed=seed)
        self.cfg = cfg
        self.in_loss = not cfg.logged_only
        self.register_buffer("rate", torch.zeros(d_sae))
        self.noise = torch.empty(0)

    @override
    def loss(self, step: sr.Step) -> torch.Tensor:
        coefficient = self.cfg.schedule.value(self.cfg.coefficient, step.index)
        fired = (step.feature_acts.detach() > 0).float().mean(dim=0)
        self.rate.mul_(DECAY).add_(fired, alpha=1 - DECAY)
        self.noise = torch.rand(len(self.rate), generator=self.generator)
        return coefficient * (self.noise * step.feature_acts.abs()).sum(dim=-1).mean()

    @override
    def metrics(self) -> dict[str, torch.Tensor | float]:
        return {"mean_rate": self.rate.mean()}


@sr.register_regularizer("test_decoder_drift")
@dataclass(frozen=True, kw_only=True)
class DecoderDrift(sr.RegularizerConfig):
    """Moves every decoder row by ``coefficient`` along axis 0 after each step."""

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> DecoderDriftModule:
        return DecoderDriftModule(self, label=label)


class DecoderDriftModule(sr.Component):
    def __init__(self, cfg: DecoderDrift, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg
        self.adam_steps: list[int] = []

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.adam_steps.append(int(optimizer.state[self.sae.W_dec]["step"]))
        self.sae.W_dec[:, 0] += self.cfg.coefficient


@sr.register_regularizer("test_watcher")
@dataclass(frozen=True, kw_only=True)
class Watcher(sr.RegularizerConfig):
    """Writes down every call it gets, and drops the first ``drop`` rows of a batch."""

    drop: int = 0

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> WatcherModule:
        return WatcherModule(self, label=label)


CALLS: list[tuple[str, str]] = []
"""(label, call) of every watcher, in order; a test clears it first."""


class WatcherModule(sr.Component):
    def __init__(self, cfg: Watcher, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg
        self.gradient_norms: dict[str, float] = {}
        self.lr = float("nan")
        self.step: sr.Step | None = None
        self.hook_name: str | None = None
        self.grad_enabled: list[bool] = []

    def _note(self, call: str) -> None:
        CALLS.append((self.label, call))

    @override
    def setup(self, sae: TrainingSAE[Any]) -> None:
        self._note("setup")
        self.hook_name = sae.cfg.metadata.hook_name

    @override
    def prepare(self, sae_in: torch.Tensor) -> torch.Tensor:
        self._note("prepare")
        return sae_in[self.cfg.drop :]

    @override
    def loss(self, step: sr.Step) -> torch.Tensor | None:
        self._note("loss")
        self.step = step
        return None

    @override
    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        self._note(f"gradient {name}")
        assert parameter.grad is not None
        self.gradient_norms[name] = float(parameter.grad.norm())
        self.grad_enabled.append(torch.is_grad_enabled())

    @override
    def before_step(self, lr: float) -> None:
        self._note("before_step")
        self.lr = lr
        self.grad_enabled.append(torch.is_grad_enabled())

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._note("after_step")
        self.grad_enabled.append(torch.is_grad_enabled())
