"""A training run between two epochs, as one file with its own hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eval_recipes.studies.mnist.weights import Weights
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What Adam keeps for each parameter."""


@dataclass
class State:
    """Everything that the next epoch depends on, and what the past ones measured."""

    weights: Weights
    optimizer: torch.optim.Adam
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry an epoch."""

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)


def new_state(weights: Weights, learning_rate: float) -> State:
    """Return the state before the first epoch, with PyTorch's fused Adam."""
    parameters = [
        torch.nn.Parameter(tensor, requires_grad=False)
        for tensor in weights.tensors.values()
    ]
    return State(weights, torch.optim.Adam(parameters, lr=learning_rate, fused=True))


def save_state(path: Path, state: State, identity: Mapping[str, Any]) -> None:
    """Write weights, Adam's moments and history; ``identity`` says which run it is."""
    tensors = {**state.weights.tensors}
    for name, parameter in _parameters(state).items():
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = state.optimizer.state[parameter][moment]
    metadata = {
        "identity": json.dumps(identity, sort_keys=True),
        "history": json.dumps(state.history),
    }
    metadata["sha256"] = _hash(tensors, metadata)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_state_(path: Path, state: State, identity: Mapping[str, Any]) -> None:
    """
    Fill ``state`` from a checkpoint, in place.

    Raises:
        InputError: if the file is of a run with other settings, is damaged, or is no
            checkpoint.
    """
    tensors, metadata = _read(path)
    require_identity(path, json.loads(metadata["identity"]), identity)
    for name, parameter in _parameters(state).items():
        parameter.copy_(tensors[name])
        state.optimizer.state[parameter] = {
            moment: tensors[f"{moment}.{name}"] for moment in MOMENTS
        }
    state.history = json.loads(metadata["history"])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and texts of a checkpoint; refuse one whose hash is another."""
    remedy = "Delete this file to train that SAE anew."
    if not path.is_file():
        raise InputError(f"Checkpoint {str(path)!r} is no regular file. {remedy}")
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"Checkpoint {str(path)!r} is damaged, or no checkpoint of this study ({error}). "
            f"{remedy}"
        ) from error
    if metadata.pop("sha256", None) != _hash(tensors, metadata):
        raise InputError(
            f"Checkpoint {str(path)!r} is damaged: its content has another hash than it "
            f"names. {remedy}"
        )
    return tensors, metadata


def _hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(json.dumps(shape).encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def require_identity(
    path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    """
    Refuse to go on with, or report on, what other settings have left.

    Raises:
        InputError: names every setting that differs.
    """
    differing = [
        f"{key} is {found.get(key)!r}, expected {expected.get(key)!r}"
        for key in sorted({*found, *expected})
        if found.get(key) != expected.get(key)
    ]
    if differing:
        raise InputError(
            f"{str(path)!r} is from a run with other settings: {'; '.join(differing)}. "
            "Repeat the settings it was begun with, or choose another --out."
        )


def _parameters(state: State) -> dict[str, torch.nn.Parameter]:
    (group,) = state.optimizer.param_groups
    return dict(zip(state.weights.tensors, group["params"], strict=True))
