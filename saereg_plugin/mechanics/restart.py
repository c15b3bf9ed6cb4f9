"""Set single latents back to a start of training."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens import TrainingSAE

from saereg_plugin.kernels.blocks import row_norms
from saereg_plugin.mechanics.latents import latent_axis


def restart_latents_(
    sae: TrainingSAE[Any],
    latents: torch.Tensor,
    directions: torch.Tensor,
    *,
    norm: float,
) -> None:
    """
    Point latents in new directions, in place; their other parameters start anew.

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
        if name in ("W_enc", "W_dec") or latent_axis(name) is None:
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
        axis = latent_axis(name)
        if axis is None:
            continue
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                value.index_fill_(axis, latents, 0)
