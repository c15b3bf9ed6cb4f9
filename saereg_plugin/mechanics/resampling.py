"""Resampling of dead latents on badly reconstructed rows (TemporalSAE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.architectures.parameters import parameter_of
from saereg_plugin.component import Component, Step
from saereg_plugin.config import MechanicConfig, checked, count, number
from saereg_plugin.errors import InputError
from saereg_plugin.firing import FiringRateComponent
from saereg_plugin.kernels.blocks import row_norms
from saereg_plugin.registry import register_mechanic


@register_mechanic("resampling")
@dataclass(frozen=True, kw_only=True)
class DeadLatentResampling(MechanicConfig):
    """
    Restart latents with a running firing rate below ``threshold`` on badly reconstructed rows.

    TemporalSAE. After step t (counted from 1), for t a multiple of ``every`` up to
    ``until``, then every ``then_every`` steps: encoder column and decoder row of each
    such latent become ``norm * x_k / ||x_k||``. Rows x_k of the step's batch are drawn with a
    probability in proportion to their squared error, each at most once, for the latents of
    the lowest rates first (if rows run out, the others wait). A row of zeros, such as
    padding, is never drawn. The latents' optimiser state becomes 0. Our choices: encoder
    bias 0; gated b_gate, b_mag and r_mag 0; jumprelu threshold as at the start; the rate
    stays.

    Args:
        decay: weight of the past in the rate, which starts at 0.
        threshold: rate below which a latent counts as dead, in (0, 1).
        every: steps between resamplings at first.
        until: last step of that.
        then_every: steps between resamplings from then on.
        stop: last step at which latents are resampled; None never stops.
        subtract_b_dec: take ``x_k - b_dec``, what the encoder sees, for ``x_k``.
        norm: of the new columns and rows. None takes 1 with unit norm, else the
            ``decoder_init_norm``, else 1.
    """

    order: ClassVar[int] = 50

    decay: float = number(0.99, lambda v: 0 <= v < 1, "a number in [0, 1)")
    threshold: float = number(0.005, lambda v: 0 < v < 1, "a number in (0, 1)")
    every: int = count(100)
    until: int = count(1000, least=0)
    then_every: int = count(500)
    stop: int | None = count(None, least=0)
    subtract_b_dec: bool = checked(False, lambda v: isinstance(v, bool), "a bool")
    norm: float | None = number(None, lambda v: v > 0, "a number above 0, or None")

    @override
    def check(self, sae_cfg: Any) -> None:
        k = getattr(sae_cfg, "k", None)
        if k is not None and k / sae_cfg.d_sae <= self.threshold:
            raise InputError(
                f"resampling: threshold is {self.threshold}, but with k={k} of d_sae={sae_cfg.d_sae} "
                f"latents the mean firing rate is {k / sae_cfg.d_sae:.2g}: most latents would count as "
                "dead for ever. Choose a threshold well below that."
            )
        if sae_cfg.unit_norm and self.norm not in (None, 1.0):
            raise InputError(
                f"resampling: norm is {self.norm}, but decoder_constraint='unit_norm' keeps rows at "
                "norm 1. Leave it at None."
            )

    def is_due(self, step: int) -> bool:
        """Whether latents are resampled after step ``step``, counted from 1."""
        if self.stop is not None and step > self.stop:
            return False
        if step <= self.until:
            return step % self.every == 0
        return (step - self.until) % self.then_every == 0

    def start_norm(self, sae_cfg: Any) -> float:
        """Return the norm of new columns and rows."""
        if self.norm is not None:
            return self.norm
        norm = sae_cfg.decoder_init_norm
        return 1.0 if sae_cfg.unit_norm or norm is None else norm

    @override
    def build(self, sae_cfg: Any, *, seed: int) -> DeadLatentResamplingModule:
        norm = self.start_norm(sae_cfg)
        return DeadLatentResamplingModule(self, sae_cfg.d_sae, norm=norm, seed=seed)


class DeadLatentResamplingModule(FiringRateComponent):
    """The resampling in training."""

    draws = True
    counts = ("resampled",)

    def __init__(
        self, cfg: DeadLatentResampling, d_sae: int, *, norm: float, seed: int
    ):
        super().__init__(d_sae, decay=cfg.decay, label=cfg.name, seed=seed)
        self.cfg = cfg
        self.norm = norm
        self._batch: tuple[torch.Tensor, torch.Tensor] | None = None
        self._below = torch.tensor(0)
        self.resampled = 0

    @override
    def loss(self, step: Step) -> None:
        self._below = (self.new_rate(step) < self.cfg.threshold).sum()
        # the batch is kept only where it is needed
        self._batch = None
        if self.cfg.is_due(step.index + 1):
            x = step.sae_in.detach()
            error = (step.sae_out.detach() - x).float().square().sum(dim=-1)
            self._batch = x, error

    @override
    def metrics(self) -> dict[str, torch.Tensor | float]:
        return {"below_threshold": self._below, "last_resampled": float(self.resampled)}

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().after_step(optimizer)
        if self._batch is None:
            return
        (x, error), self._batch = self._batch, None
        dead = dead_latents(self.rate, self.cfg.threshold)
        points = x - self.sae.b_dec if self.cfg.subtract_b_dec else x
        # padding, masked tokens and blank images are no direction
        usable = (row_norms(x) > 0) & (row_norms(points) > 0)
        rows = draw_rows(error * usable, len(dead), self.generator)
        latents = dead[: len(rows)].to(x.device)
        self.resampled = len(latents)
        if len(latents) == 0:
            return
        directions = points[rows.to(x.device)]
        restart_latents_(self.sae, latents, directions, norm=self.norm)
        reset_optimizer_state_(optimizer, self.sae, latents)
        for part in self.sae.modules():
            if isinstance(part, Component):
                part.restarted(latents)


def dead_latents(rate: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return the latents of a rate below ``threshold``, the lowest first, int64 [n]."""
    order = rate.argsort(stable=True)
    return order[rate[order] < threshold]


def draw_rows(
    error: torch.Tensor, count: int, generator: torch.Generator
) -> torch.Tensor:
    """
    Draw at most ``count`` different rows, with probabilities in proportion to ``error``.

    Args:
        error: squared error of each row, [batch].
        count: how many; fewer come if fewer rows have an error above 0.
        generator: on the CPU.

    Returns:
        Row numbers, int64 [n], in the order in which they were drawn.
    """
    weights = torch.nan_to_num(error.double().cpu(), nan=0.0, posinf=0.0)
    count = min(count, int((weights > 0).sum()))
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    return weights.multinomial(count, replacement=False, generator=generator)


def restart_latents_(
    sae: TrainingSAE[Any],
    latents: torch.Tensor,
    directions: torch.Tensor,
    *,
    norm: float,
) -> None:
    """
    Point latents in new directions and reset their other parameters, in place.

    Encoder column and decoder row become ``norm * direction / ||direction||``. Biases
    (b_enc, b_gate, b_mag) and r_mag become 0, a jumprelu threshold its initial value.

    Args:
        sae: any of SAELens' training SAEs.
        latents: int64 [n].
        directions: [n, d_in], none of them 0.
        norm: of each new column and row.
    """
    rows = norm * directions / row_norms(directions)[:, None]
    rows = rows.to(sae.W_dec.dtype)
    sae.W_dec[latents] = rows
    sae.W_enc[:, latents] = rows.T
    for name, parameter in sae.named_parameters():
        if parameter.ndim == 2 or parameter_of(sae, name).latent_axis is None:
            continue
        start = sae.cfg.jumprelu_init_threshold if name == "threshold" else 0.0
        parameter[latents] = start


def reset_optimizer_state_(
    optimizer: torch.optim.Optimizer, sae: TrainingSAE[Any], latents: torch.Tensor
) -> None:
    """
    Set the optimiser's averages of the latents' parameters to 0, in place.

    Adam's count of steps belongs to whole parameters and stays, as its bias correction
    is over by then.
    """
    for name, parameter in sae.named_parameters():
        axis = parameter_of(sae, name).latent_axis
        if axis is None:
            continue
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                value.index_fill_(axis, latents, 0)
