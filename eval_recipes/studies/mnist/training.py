"""Training loop of the MNIST study and its checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.linalg import vector_norm
from tqdm import tqdm
from typing_extensions import assert_never

from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.mnist.autoencoder import (
    Weights,
    initial_weights,
    step_gradients,
    unit_norm_,
)
from eval_recipes.studies.mnist.settings import STUDY, DataOrder, Run, Setting, Training
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path
from saereg_plugin.machine import AUTO, resolve_device
from saereg_plugin.mechanics.initialization import geometric_median
from saereg_plugin.sources.inputs.mnist import Images

CHECKPOINT = "checkpoint.safetensors"

_USUAL = "cpu"
"""Device of epochs that name none: the only one of version 0.1."""

_ORDER_STREAM = 1
"""Stream of the data order, apart from other uses of the same seed."""

NEGLIGIBLE = 1e-30
"""
Weights and first moments below this become 0 after an epoch. Those of pixels that are rarely
lit and of dead latents would decay to subnormal numbers, which processors compute several
times slower; from here the moments' decay in an epoch of 118 steps does not get there
(.9^118 = 4e-6).
"""


def identity(run: Run, training: Training, images: Images) -> dict[str, Any]:
    """Return what must be equal for a checkpoint to belong to this run."""
    return {
        "setting": asdict(run.setting),
        "seed": run.seed,
        "training": training.of(run.setting),
        "images_sha256": images.sha256,
        "n_images": len(images.pixels),
    }


def train(
    run: Run,
    training: Training,
    images: Images,
    folder: Path,
    *,
    device: str = AUTO,
    before_writing: Callable[[], object] | None = None,
    on_epoch: Callable[[State], None] | None = None,
) -> State:
    """
    Train to the last epoch, from the checkpoint in ``folder`` if there is one.

    The result is bit for bit that of an uninterrupted run on the same device with as many
    threads: batches depend on seed and epoch alone, and the start is drawn on the CPU.

    Args:
        run: the SAE.
        training: settings of all runs.
        images: what it is trained on.
        folder: where its checkpoint is.
        device: a torch device; "auto" is that of the checkpoint, or else CUDA, MPS or the
            CPU.
        before_writing: is called unless all epochs are done.
        on_epoch: sees the state after every epoch.

    Raises:
        InputError: if the checkpoint is of a run with other settings, is damaged, an epoch
            has no batch, or there is no such device. A finished run needs none.
    """
    if training.drop_last and len(images.pixels) < training.batch_size:
        raise InputError(
            f"There are {len(images.pixels)} images and batches have {training.batch_size}; "
            "expected a whole batch. Do not leave out the last one (--drop-last)."
        )
    described = identity(run, training, images)
    path = folder / CHECKPOINT
    start = initial_weights(run.setting, training, seed=run.seed)
    is_begun = os.path.lexists(path)
    if not is_begun:
        _center_(start, run, training, images.pixels)
    state = new_state(start, training.learning_rate)
    if is_begun:
        load_state_(path, state, described)
        if state.epoch >= training.epochs:
            return state
        if device == AUTO:
            device = devices_of(state.history)[-1]
    device = resolve_device(device)
    if before_writing is not None:
        before_writing()
    state = _moved(state, device, training.learning_rate)
    pixels = images.pixels.to(device)
    while state.epoch < training.epochs:
        state.history.append(_epoch(run, training, pixels, state))
        _drop_negligible_(state)
        save_state(path, state, described)
        if on_epoch is not None:
            on_epoch(state)
    return state


def epoch_order(n: int, *, seed: int, epoch: int, data_order: DataOrder) -> Tensor:
    """Return the order [n] of the images in one epoch; ``shared`` is that of seed 0."""
    key = (_ORDER_STREAM, epoch, seed if data_order == "per-seed" else 0)
    return torch.from_numpy(np.random.default_rng(key).permutation(n))


def _batches(run: Run, training: Training, n: int, *, epoch: int) -> list[Tensor]:
    """Return the images of each batch of an epoch."""
    order = epoch_order(n, seed=run.seed, epoch=epoch, data_order=training.data_order)
    if training.drop_last:
        order = order[: n - n % training.batch_size]
    return list(order.split(training.batch_size))


def _center_(weights: Weights, run: Run, training: Training, pixels: Tensor) -> None:
    """Begin the decoder bias, if there is one, at the first batch's geometric median."""
    if weights.b_dec is not None:
        first = _batches(run, training, len(pixels), epoch=0)[0]
        weights.b_dec.copy_(geometric_median(pixels[first].float().div_(255)))


def _epoch(
    run: Run, training: Training, pixels: Tensor, state: State
) -> dict[str, Any]:
    batches = _batches(run, training, len(pixels), epoch=state.epoch)
    wall, cpu = time.perf_counter(), time.process_time()
    sums = np.zeros(3)
    for chosen in batches:
        x = pixels[chosen.to(pixels.device)].float().div_(255)
        sums += len(x) * np.array(_step(run, training, state, x))
    mse, activation, density = (sums / sum(map(len, batches))).tolist()
    place = pixels.device.type
    return {
        "mse": mse,
        "mean_activation": activation,
        "density": density,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        **({} if place == _USUAL else {"device": place}),
    }


def _drop_negligible_(state: State) -> None:
    moments = (kept["exp_avg"] for kept in state.optimizer.state.values())
    with torch.no_grad():
        for tensor in (*state.weights.tensors.values(), *moments):
            tensor.masked_fill_(tensor.abs() < NEGLIGIBLE, 0)


def _step(
    run: Run, training: Training, state: State, x: Tensor
) -> tuple[float, float, float]:
    weights = state.weights
    step = step_gradients(weights, x, activation_l1=training.activation_l1)
    add_penalty_(run.setting, weights, step.grads)
    (group,) = state.optimizer.param_groups
    for parameter, grad in zip(group["params"], step.grads.tensors.values()):
        parameter.grad = grad
    state.optimizer.step()
    if run.setting.tied:
        unit_norm_(weights.dec)
    return step.mse, step.mean_activation, step.density


def add_penalty_(setting: Setting, weights: Weights, grads: Weights) -> None:
    """
    Add the gradient of the setting's penalty to ``grads``, in place; biases are free.

    ``l1``: strength * (mean|dec| + mean|enc|). ``l2``: strength * (sum dec^2 + sum enc^2).
    ``frobenius``: strength * (||dec||_F + ||enc||_F), which is what the public notebook
    has for tied SAEs. The gradient of |w| at 0 is 0.
    """
    _add_(setting, weights.enc, grads.enc)
    _add_(setting, weights.dec, grads.dec)


def _add_(setting: Setting, weight: Tensor, grad: Tensor) -> None:
    match setting.penalty:
        case "none":
            return
        case "l1":
            grad.add_(weight.sign(), alpha=setting.strength / weight.numel())
        case "l2":
            grad.add_(weight, alpha=2 * setting.strength)
        case "frobenius":
            grad.add_(weight, alpha=setting.strength / float(vector_norm(weight)))
        case _:
            assert_never(setting.penalty)


def devices_of(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the devices that epochs were computed on, in order, each once."""
    return list(dict.fromkeys(epoch.get("device", _USUAL) for epoch in history))


def train_all(
    runs: Sequence[Run],
    training: Training,
    images: Images,
    out: Path,
    *,
    device: str = AUTO,
) -> None:
    """
    Train every run to its last epoch, in order, on ``device`` (``train``).

    Finished runs are only read.

    Raises:
        InputError: if ``out`` holds the user's files, is not writable, holds runs with other
            settings, or is in use by another process.
    """
    with (
        study_folder(out, *STUDY) as owned,
        tqdm(total=len(runs) * training.epochs, unit="epoch") as progress,
    ):
        mark_folder(out, *STUDY)
        for number, run in enumerate(runs):
            progress.set_description(run.name)
            train(
                run,
                training,
                images,
                out / run.name,
                device=device,
                before_writing=partial(owned.claim, [f"{run.name}/{CHECKPOINT}"]),
                on_epoch=partial(_show, progress, number * training.epochs),
            )
            progress.update((number + 1) * training.epochs - progress.n)


def _show(progress: tqdm[Any], before: int, state: State) -> None:
    # a resumed run begins with more than one epoch done
    progress.update(before + state.epoch - progress.n)
    last = state.history[-1]
    progress.set_postfix_str(
        f"mse {last['mse']:.5f}, density {last['density']:.3f}, "
        f"{last['seconds']:.0f} s an epoch"
    )


MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""Adam's state of each parameter."""


@dataclass
class State:
    """Weights, optimiser and history between two epochs."""

    weights: Weights
    optimizer: torch.optim.Adam
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per epoch; ``device`` is left out on the CPU."""

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


def _moved(state: State, device: str, learning_rate: float) -> State:
    """Return the state on a device; on the CPU, where states are read, as it is."""
    if torch.device(device).type == _USUAL:
        return state
    moved = new_state(state.weights.to(device), learning_rate)
    moved.history = state.history
    there = _parameters(moved)
    for name, parameter in _parameters(state).items():
        kept = state.optimizer.state[parameter]
        moved.optimizer.state[there[name]] = {k: v.to(device) for k, v in kept.items()}
    return moved


def save_state(path: Path, state: State, identity: Mapping[str, Any]) -> None:
    """Write weights, Adam's moments and history; ``identity`` describes the run."""
    tensors = {**state.weights.tensors}
    for name, parameter in _parameters(state).items():
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = state.optimizer.state[parameter][moment]
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
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
    found = json.loads(metadata["identity"])
    differing = [
        f"{key} is {found.get(key)!r}, expected {identity.get(key)!r}"
        for key in sorted({*found, *identity})
        if found.get(key) != identity.get(key)
    ]
    if differing:
        raise InputError(
            f"{str(path)!r} is from a run with other settings: {'; '.join(differing)}. "
            "Repeat the settings it was begun with, or choose another --out."
        )
    for name, parameter in _parameters(state).items():
        parameter.copy_(tensors[name])
        state.optimizer.state[parameter] = {
            moment: tensors[f"{moment}.{name}"] for moment in MOMENTS
        }
    state.history = json.loads(metadata["history"])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and texts of a checkpoint; refuse a damaged one."""
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


def _parameters(state: State) -> dict[str, torch.nn.Parameter]:
    (group,) = state.optimizer.param_groups
    return dict(zip(state.weights.tensors, group["params"], strict=True))
