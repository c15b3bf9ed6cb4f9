"""Initial weights and training history of a release's SAEs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import TrainingSAE
from sae_lens.constants import SPARSITY_FILENAME
from safetensors.torch import load_file
from torch import Tensor

from saereg_plugin import machine
from saereg_plugin.errors import InputError
from saereg_plugin.registry import training_classes
from saereg_plugin.releases.release import Entry, Release
from saereg_plugin.sweeps.config import group_fields
from saereg_plugin.sweeps.matched import recorded_sweep
from saereg_plugin.sweeps.members import SPARSITY_WINDOW, sae_config
from saereg_plugin.sweeps.saving import SCALE, SINCE_FIRED

_NEVER = -9.5
"""SAELens stores log10 of the firing rate plus 1e-10: below this, a rate of 0."""


@dataclass(frozen=True)
class TrainingHistory:
    """
    How the latents of an SAE fired in training.

    Attributes:
        steps: optimiser steps of the training; None if unknown.
        never_fired: latents that fired in no step, bool [d_sae]; None if unknown.
        last_fired: step, from 1, in which each latent fired last, 0 for never, int64
            [d_sae]; None if only later releases record it.
        scale: factor of the activations in training; None if there was none or it was
            not recorded.
        rate: share of the last tokens on which each latent fired, [d_sae]; None if unknown.
    """

    steps: int | None = None
    never_fired: Tensor | None = None
    last_fired: Tensor | None = None
    scale: float | None = None
    rate: Tensor | None = None


def training_history(release: Release, entry: Entry) -> TrainingHistory:
    """
    Return how the latents of one SAE fired in training, as far as its release records it.

    Releases before 0.2 record firing rates alone, of the steps since the last multiple of
    2,000: of a run of at most 2,000 steps they tell which latents never fired.

    Raises:
        InputError: if the release records no sweep.
    """
    steps = recorded_sweep(release).steps
    assert release.folder is not None
    path = release.folder / entry.path / SPARSITY_FILENAME
    if not path.is_file():
        return TrainingHistory(steps)
    stored = load_file(path)
    rate = 10 ** stored["sparsity"].double()
    scale = float(stored[SCALE]) if SCALE in stored else None
    if SINCE_FIRED in stored:
        last = steps - stored[SINCE_FIRED]
        return TrainingHistory(steps, last <= 0, last.clamp(min=0), scale, rate)
    if steps > SPARSITY_WINDOW:
        return TrainingHistory(steps, rate=rate)
    return TrainingHistory(steps, stored["sparsity"] < _NEVER, rate=rate)


def initial_sae(release: Release, entry: Entry, *, d_in: int) -> TrainingSAE[Any]:
    """
    Return an SAE as it was before training, which follows from its seed and configuration.

    It is on the CPU. Its decoder bias is 0 where training took it from the first batch.

    Args:
        release: the release, which records its sweep.
        entry: the SAE's.
        d_in: its width.

    Raises:
        InputError: if the release does not record how the SAE was trained, it starts from
            trained ones, or this machine lacks the device that drew the weights.
    """
    sweep = recorded_sweep(release)
    fields = dict(group_fields(sweep).get(entry.group) or {})
    if not fields or entry.seed is None:
        raise InputError(
            f"Release {release.name!r} records no configuration of group {entry.group!r} with seed "
            f"{entry.seed!r}; its initial weights are unknown."
        )
    if entry.group in sweep.started_from:
        raise InputError(
            f"Group {entry.group!r} of release {release.name!r} starts from trained SAEs, "
            f"{sweep.started_from[entry.group]!r}; its initial weights are not drawn from its seed."
        )
    fields.pop("hook_name", None)
    # a device draws other numbers than another one
    fields = {"d_in": d_in, **fields, "device": _device_of(sweep.device, release)}
    cfg = sae_config(fields, seed=entry.seed, group=entry.group)
    return training_classes(cfg.architecture())[0](cfg).to("cpu")


def _device_of(device: str, release: Release) -> str:
    """Return the device that a release was trained on, if this machine has one."""
    try:
        machine.require_device(device)
    except InputError as error:
        raise InputError(
            f"Release {release.name!r} drew its initial weights on {device!r}, which draws other "
            "numbers than this machine's devices."
        ) from error
    return device


@torch.no_grad()
def encoder_norms(sae: TrainingSAE[Any], *, scale: float | None = None) -> Tensor:
    """
    Return the norms of the encoder's rows as the SAE would be saved, [d_sae].

    Saving folds the norms of the decoder's rows into the encoder where activations are
    rescaled by them, and the factor of the activations where the rows are free.

    Args:
        sae: a training SAE.
        scale: the factor of the activations in training, or None for none.

    Raises:
        InputError: if the factor is needed, and missing.
    """
    state = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    norms = state["W_enc"].norm(dim=0)
    cfg: Any = sae.cfg
    # rescaled rows are of norm 1 in the end, so that the factor cancels
    free = not cfg.unit_norm and not getattr(cfg, "rescale_acts_by_decoder_norm", False)
    if free and cfg.normalize_activations == "expected_average_only_in":
        if scale is None:
            raise InputError(
                "The release does not record the factor of the activations in training, without "
                "which the norms of the encoder at the start and the end cannot be compared."
            )
        norms = norms * scale
    if cfg.normalize_activations == "covariance_whitening":
        raise InputError(
            "The saved encoder includes the whitening of the activations; expected an SAE that was "
            "trained without."
        )
    return norms
