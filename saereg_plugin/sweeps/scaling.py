"""The scale of activations that the SAEs of a sweep are trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_lens import SAETrainer

from saereg_plugin.sweeps.stream import ActivationStream


def scale_activations(
    trainers: Mapping[str, SAETrainer[Any, Any]], stream: ActivationStream
) -> None:
    """
    Estimate each SAE's factor or whitening from the waiting activations, as SAELens does.

    A factor is the same for all SAEs of one stream, so it is estimated once.
    """
    for name, trainer in trainers.items():
        cfg, scaler = trainer.sae.cfg, trainer.activation_scaler
        if cfg.normalize_activations == "covariance_whitening":
            scaler.estimate_whitening(
                cfg.d_in, iter([stream.peek()]), n_batches_for_norm_estimate=1
            )
        elif cfg.normalize_activations == "expected_average_only_in":
            known = _known_factor(trainers, name)
            if known is not None:
                scaler.scaling_factor = known
            else:
                scaler.estimate_scaling_factor(
                    cfg.d_in, iter([stream.peek()]), n_batches_for_norm_estimate=1
                )


def _known_factor(
    trainers: Mapping[str, SAETrainer[Any, Any]], name: str
) -> float | None:
    """Return the factor that another SAE of the same stream has already."""
    for other, trainer in trainers.items():
        if other != name and trainer.activation_scaler.scaling_factor is not None:
            return trainer.activation_scaler.scaling_factor
    return None
