"""Training records as written: a file per SAE, JSON line by line."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAETrainer, TrainingSAE
from sae_lens.saes.sae import TrainStepOutput

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.errors import InputError
from saereg_plugin.files import make_folder, sync_file, sync_folder
from saereg_plugin.releases.records import damaged_line

_log = logging.getLogger(__name__)


class GradientNorm:
    """
    Norm of an SAE's whole gradient before SAELens clips it.

    Measured only while ``active``, by hooks that run after those of the SAE.
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
    """Return the record of one step as plain numbers; ``lr`` is that of this step."""
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
    # JSON has no NaN: null is a value that is not finite
    return {
        key: value if not isinstance(value, float) or math.isfinite(value) else None
        for key, value in values.items()
    }


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append one line to a record file."""
    make_folder(path.parent)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def record_size(path: Path) -> dict[str, Any]:
    """Return ``bytes`` and ``sha256`` of a training record once it is on the disk."""
    if not path.is_file():
        return {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    sync_file(path)
    sync_folder(path.parent)
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def require_record(path: Path, part: Mapping[str, Any]) -> None:
    """
    Refuse a training record that changed since a checkpoint was written.

    A missing record is only logged, since training does not need it.

    Args:
        path: the record.
        part: its ``record_size`` in the checkpoint.

    Raises:
        InputError: naming the file and the first line that is no JSON.
    """
    if not path.is_file():
        if part["bytes"]:
            _log.warning("Training record %r is missing; it begins anew.", str(path))
        return
    with path.open("rb") as file:
        content = file.read(part["bytes"])
    if hashlib.sha256(content).hexdigest() == part["sha256"]:
        return
    line = damaged_line(content)
    where = "its lines were changed" if line is None else f"line {line} is no JSON"
    raise InputError(
        f"Training record {str(path)!r} is not as the checkpoint found it: {where}. Put it back, "
        "or remove it to resume without its earlier lines."
    )


def cut_record(path: Path, size: int) -> None:
    """Drop the records after the step from which a run resumes."""
    if path.is_file():
        with path.open("rb+") as file:
            file.truncate(size)
        sync_file(path)


STOPPED = "stopped"
"""Folder with the last good checkpoints of stopped SAEs."""


@dataclass(frozen=True)
class Stopped:
    """An SAE that was taken out of a sweep, and why."""

    sae_id: str
    step: int
    loss: str
    checkpoint_step: int | None

    def __str__(self) -> str:
        last = (
            "no checkpoint was written before"
            if self.checkpoint_step is None
            else f"its last good checkpoint, of step {self.checkpoint_step}, is kept in "
            f"{STOPPED}/{self.sae_id}"
        )
        return f"{self.sae_id}: {self.loss} is not finite in step {self.step}; {last}"


def non_finite_loss(output: TrainStepOutput) -> str | None:
    """Return the name of the first loss that is NaN or infinite, or None."""
    for name, value in {**output.losses, "loss": output.loss}.items():
        if not torch.isfinite(value):
            return name
    return None
