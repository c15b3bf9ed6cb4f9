"""Saved SAEs: rows that vanished, and a test that outputs are finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sae_lens.registry import get_sae_class

from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.row_floor import directions

_ROWS = 16


class NonFiniteOutputError(InputError):
    """An SAE is not saved, for it does not compute finite numbers."""

    def __init__(self, found: str):
        super().__init__(
            f"The SAE is not saved: its output on a test batch is not finite ({found}). "
            "Train it again with a lower learning rate or smaller coefficients."
        )
        self.found = found


@torch.no_grad()
def restore_vanished_rows_(
    W_dec: torch.Tensor, W_enc: torch.Tensor, *biases: torch.Tensor
) -> None:
    """
    Give rows of norm 0 the norm 1, and their latents an encoder of 0, in place.

    In an SAE that multiplies activations with the norms of the rows and divides by them
    again, such a latent never fires, before and after.

    Args:
        W_dec: [d_sae, d_in].
        W_enc: [d_in, d_sae]; the row takes the direction of its column.
        biases: of the encoder, [d_sae] each.
    """
    vanished = (W_dec.norm(dim=-1) == 0).nonzero().squeeze(1)
    if len(vanished) == 0:
        return
    unit = directions(W_dec[vanished], W_enc[:, vanished].T, vanished)
    W_dec[vanished] = unit.to(W_dec.dtype)
    W_enc[:, vanished] = 0
    for bias in biases:
        bias[vanished] = 0


@torch.no_grad()
def require_finite_output(
    cfg: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> None:
    """
    Refuse to save an inference SAE that does not compute finite numbers.

    Args:
        cfg: its configuration, as SAELens writes it.
        state: its tensors.

    Raises:
        NonFiniteOutputError: naming the tensors with entries that are not finite.
    """
    sae_class, cfg_class = get_sae_class(cfg["architecture"])
    # as SAELens loads: without memory for weights that are replaced at once
    sae = sae_class(cfg_class.from_dict({**cfg, "device": "meta"}))
    sae.load_state_dict(dict(state), assign=True)
    weights = state["W_dec"]
    sae = sae.to(device=str(weights.device))
    sae.turn_off_forward_pass_hook_z_reshaping()
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(_ROWS, weights.shape[1], generator=generator)
    if not bool(sae(batch.to(weights)).isfinite().all()):
        raise NonFiniteOutputError(_broken(state))


def _broken(state: Mapping[str, torch.Tensor]) -> str:
    counts = {
        name: int((~tensor.isfinite()).sum())
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }
    found = [f"{count} entries of {name}" for name, count in counts.items() if count]
    return (
        f"not finite: {', '.join(found)}" if found else "all weights are, but too large"
    )
