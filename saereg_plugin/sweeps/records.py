"""The training record: one JSON object a line, one file an SAE."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAETrainer, TrainingSAE
from sae_lens.saes.sae import TrainStepOutput

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.files import write_text


class GradientNorm:
    """
    The norm of an SAE's whole gradient as SAELens is about to clip it.

    Measured only while ``active``, by hooks that run after the SAE's own.
    """

    def __init__(self, sae: TrainingSAE[Any]):
        self.active = False
        self._squares: list[torch.Tensor] = []
        if isinstance(sae, RegularizedMixin):
            sae.bind()
        for parameter in sae.parameters():
            parameter.register_post_accumulate_grad_hook(self._add)

    def take(self) -> float:
        """Return the norm measured since the last call."""
        value = math.sqrt(sum(float(square) for square in self._squares))
        self._squares.clear()
        return value

    def _add(self, parameter: torch.Tensor) -> None:
        if self.active and parameter.grad is not None:
            gradient = parameter.grad.detach()
            norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
            self._squares.append(norm**2)


@torch.no_grad()
def step_record(
    trainer: SAETrainer[Any, Any],
    output: TrainStepOutput,
    *,
    step: int,
    lr: float,
    gradient_norm: float,
    tokens_per_second: float,
) -> dict[str, Any]:
    """
    Return what is recorded of one step, as plain numbers.

    ``lr`` is that of this step; the optimiser holds that of the next one by now.
    """
    sae_in = output.sae_in.float()
    residual = (output.sae_out.float() - sae_in).pow(2).sum()
    variance = (sae_in - sae_in.mean(dim=0)).pow(2).sum()
    dead = int(trainer.dead_neurons.sum())
    values: dict[str, Any] = {
        "step": step,
        "tokens": trainer.n_training_samples,
        "loss": float(output.loss),
        **{f"losses/{name}": float(value) for name, value in output.losses.items()},
        "explained_variance": float(1 - residual / variance),
        "l0": float(output.feature_acts.bool().float().sum(-1).to_dense().mean()),
        "alive": trainer.sae.cfg.d_sae - dead,
        "dead": dead,
        "lr": lr,
        "gradient_norm": gradient_norm,
        "tokens_per_second": tokens_per_second,
    }
    for name, metric in output.metrics.items():
        values[f"metrics/{name}"] = float(metric() if callable(metric) else metric)
    # JSON has no NaN: null says that a number was asked for and there was none
    return {
        key: value if not isinstance(value, float) or math.isfinite(value) else None
        for key, value in values.items()
    }


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append one line to a record file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def truncate_records(path: Path, *, last_step: int) -> None:
    """Drop what was recorded after the step from which a run resumes."""
    if not path.is_file():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            # only the last line can be half-written, and it is after the checkpoint
            break
        if record["step"] <= last_step:
            kept.append(line)
    write_text(path, "".join(f"{line}\n" for line in kept))
