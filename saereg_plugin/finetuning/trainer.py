"""Fine-tuning steps of all SAEs on a shared clean pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAETrainer, TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.training.optim import CoefficientScheduler
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from saereg_plugin.finetuning.contexts import ContextSource
from saereg_plugin.finetuning.frozen_model import CleanPass, FrozenModel
from saereg_plugin.finetuning.losses import Objective, kl_divergence, later_error
from saereg_plugin.finetuning.saved_sae import SavedSAE, in_training_units
from saereg_plugin.process import StopFlag
from saereg_plugin.sweeps.members import trainer_config
from saereg_plugin.sweeps.trainer import SweepTrainer

_MAX_NORM = 1.0
"""Norm to which gradients are clipped, as in training."""


class FineTuner(SAETrainer[Any, Any]):
    """
    SAELens' trainer of one SAE, with AdamW, a rate that falls to 0, and another loss.

    Coefficients are at the end of their warm-up. There is no auxiliary loss of dead latents.

    Args:
        cfg: SAELens' configuration of the run.
        sae: with the weights to start from.
        objective: the loss.
        weight_decay: of AdamW.
        steps: over which the learning rate falls linearly to 0.
    """

    def __init__(
        self,
        cfg: SAETrainerConfig,
        sae: TrainingSAE[Any],
        objective: Objective,
        *,
        weight_decay: float,
        steps: int,
    ) -> None:
        super().__init__(cfg, sae, iter(()))
        self._objective = objective
        self.optimizer = AdamW(
            sae.parameters(),
            lr=cfg.lr,
            betas=(cfg.adam_beta1, cfg.adam_beta2),
            weight_decay=weight_decay,
        )
        self.lr_scheduler = LambdaLR(
            self.optimizer, lambda done: max(0.0, 1.0 - done / steps)
        )
        for name, scheduler in self.coefficient_schedulers.items():
            self.coefficient_schedulers[name] = CoefficientScheduler(
                warm_up_steps=0, final_value=scheduler.final_value
            )

    def step_in_model(
        self, clean: CleanPass, frozen: FrozenModel, point: str
    ) -> TrainStepOutput:
        """
        Take one step on a batch of contexts.

        The output's loss is what was trained. Its ``mse_loss`` is the whole MSE, and its metrics
        have ``kl`` (mean over tokens), ``kl_scale`` (a of ``Objective``) and ``later_error``.
        """
        rows = clean.rows(point).to(self.sae.device)
        self.n_training_samples += len(rows)
        self.sae.train()
        sae_in = self.activation_scaler(rows)
        output = self.sae.training_forward_pass(
            TrainStepInput(
                sae_in=sae_in,
                coefficients=self.get_coefficients(),
                dead_neuron_mask=None,
                n_training_steps=self.n_training_steps,
                is_logging_step=False,
            )
        )
        self._count(output)
        if self._objective.reads_logits:
            x_hat = self.activation_scaler.unscale(output.sae_out)
            places = places_of(sae_in, output.sae_in)
            self._replace_mse(output, clean, frozen, point, x_hat, places)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), _MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        return output

    def _replace_mse(
        self,
        output: TrainStepOutput,
        clean: CleanPass,
        frozen: FrozenModel,
        point: str,
        x_hat: Tensor,
        places: Tensor,
    ) -> None:
        """Put the objective in place of the MSE in an output's loss."""
        assert clean.log_p is not None
        changed = clean.with_rows(point, x_hat, places)
        logits, later = frozen.patched(clean, point, changed)
        kl = kl_divergence(clean.log_p, logits[clean.keep])
        error = later_error(clean.later[point], later) if later else None
        mse = output.losses["mse_loss"]
        value, scale = self._objective.value(mse, kl, error, d_in=x_hat.shape[-1])
        output.loss = output.loss - mse + value
        output.metrics["kl"] = kl.detach()
        output.metrics["kl_scale"] = scale
        if error is not None:
            output.metrics["later_error"] = error.detach()

    @torch.no_grad()
    def _count(self, output: TrainStepOutput) -> None:
        """Count which latents fired, as SAELens does."""
        fired = output.feature_acts.bool().float()
        counts = fired.sum(0)
        if counts.is_sparse:
            counts = counts.to_dense()
        self.n_forward_passes_since_fired += 1
        self.n_forward_passes_since_fired[counts > 0] = 0
        self.act_freq_scores += counts
        self.n_frac_active_samples += len(output.sae_in)


def places_of(given: Tensor, kept: Tensor) -> Tensor:
    """
    Return which rows of ``given`` [n, d] are ``kept`` [m, d], int64 [m].

    A component may have left rows out; their order stays. Of equal rows, which have equal
    reconstructions, the first that is free counts.
    """
    if len(given) == len(kept):
        return torch.arange(len(given), device=given.device)
    keys = [rows.detach().double().square().sum(-1).tolist() for rows in (given, kept)]
    places: list[int] = []
    place = 0
    for key in keys[1]:
        while keys[0][place] != key:
            place += 1
        places.append(place)
        place += 1
    return torch.tensor(places, dtype=torch.long, device=given.device)


@dataclass(kw_only=True)
class FineTuneTrainer(SweepTrainer):
    """
    A sweep's trainer whose SAEs start from saved ones and share a clean pass.

    Attributes:
        objective: the loss.
        weight_decay: of AdamW.
        saved: the SAEs to start from, by id.
        trained_steps: steps of the training before, from which schedules go on.
    """

    objective: Objective
    weight_decay: float
    saved: Mapping[str, SavedSAE]
    trained_steps: int

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        cfg = trainer_config(self.sweep, self.folder)
        for name, sae in self._trainer.saes.items():
            self.saved[name].load_into(sae)
            setattr(sae, "step_index", self.trained_steps)
            self._trainer.trainers[name] = FineTuner(
                cfg,
                sae,
                self.objective,
                weight_decay=self.weight_decay,
                steps=self.sweep.steps,
            )

    @override
    def train(self, stop: StopFlag, *, steps: int | None = None) -> bool:
        finished = super().train(stop, steps=steps)
        self._frozen.require_unchanged()
        return finished

    @override
    def _begin(self) -> None:
        """Estimate scales anew, and bring the saved weights, which have one folded in, to them."""
        super()._begin()
        for trainer in self.trainers.values():
            in_training_units(trainer.sae, trainer.activation_scaler)

    @property
    def _frozen(self) -> FrozenModel:
        assert isinstance(self.source, ContextSource)
        return self.source.frozen

    @override
    def _step_of(
        self, trainer: SAETrainer[Any, Any], batch: Any, point: str
    ) -> TrainStepOutput:
        assert isinstance(trainer, FineTuner)
        return trainer.step_in_model(batch, self._frozen, point)
