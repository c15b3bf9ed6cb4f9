"""Encoding by saved TopK SAEs, as sparse matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from sae_lens import SAE, TopKSAE

from saereg_plugin.errors import InputError
from saereg_plugin.kernels.screening import (
    Screen,
    can_screen,
    screen_top_k,
    screening_wins,
)
from saereg_plugin.kernels.selected import Selected
from saereg_plugin.kernels.top_k import PreActivations, select_top_k


def can_encode_top_k(sae: SAE[Any]) -> bool:
    """Return whether ``TopKEncoder`` takes an SAE as it is: no hook of it is in use."""
    return (
        type(sae) is TopKSAE
        and sae.W_enc.dtype in (torch.float32, torch.float64)
        and not sae.use_error_term
        and not any(is_in_use(hook) for hook in sae.hook_dict.values())
    )


def is_in_use(hook: Any) -> bool:
    """Return whether a hook point has hooks, of TransformerLens or PyTorch."""
    return bool(
        hook.has_hooks(including_permanent=True)
        or hook._forward_hooks
        or hook._forward_pre_hooks
        or hook._backward_hooks
        or hook._backward_pre_hooks
    )


@torch.no_grad()
def encode_top_k(sae: SAE[Any], x: torch.Tensor) -> torch.Tensor:
    """
    Return ``sae.encode(x)`` of a saved TopK SAE as a sparse matrix.

    The same latents are active, with the same values up to rounding, in less time and
    memory; ``sae.decode`` takes the result. For many batches make a ``TopKEncoder`` once.

    Args:
        sae: SAELens' ``TopKSAE`` in float32 or float64.
        x: [..., d_in].

    Returns:
        Sparse COO tensor [..., d_sae].

    Raises:
        InputError: for other SAEs, and where a hook point is in use, which sees dense
            activations.

    >>> from sae_lens import TopKSAE, TopKSAEConfig
    >>> sae = TopKSAE(TopKSAEConfig(d_in=4, d_sae=64, k=2))
    >>> x = torch.randn(3, 4)
    >>> torch.allclose(encode_top_k(sae, x).to_dense(), sae.encode(x))
    True
    """
    return TopKEncoder(sae)(x)


@dataclass(frozen=True)
class TopKEncoder:
    """
    The encoder of a saved TopK SAE, prepared once for many batches.

    Attributes:
        sae: SAELens' ``TopKSAE`` in float32 or float64, whose weights do not change.

    Raises:
        InputError: for other SAEs, and where a hook point is in use.
    """

    sae: SAE[Any]

    def __post_init__(self) -> None:
        if not can_encode_top_k(self.sae):
            raise InputError(
                f"Encodes SAELens' TopKSAE with float32 or float64 weights and no hook in use, this is a "
                f"{type(self.sae).__name__} in {self.sae.W_enc.dtype}. Call its encode()."
            )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the latent activations of ``x`` [..., d_in] as sparse COO [..., d_sae]."""
        selected, acts = self.active(x)
        shape = (*x.shape[:-1], selected.d_sae)
        if x.ndim == 2:
            return selected.to_coo(acts)
        places = torch.unravel_index(selected.rows, x.shape[:-1])
        return torch.sparse_coo_tensor(
            torch.stack([*places, selected.latents]),
            acts,
            shape,
            check_invariants=False,
            is_coalesced=True,
        )

    @torch.no_grad()
    def active(self, x: torch.Tensor) -> tuple[Selected, torch.Tensor]:
        """
        Return the active latents of each row of ``x`` [..., d_in], and their activations [n].

        None is zero or negative. The normalisation is kept by the SAE for its next
        ``decode``, as by ``encode``.
        """
        sae_in = self.sae.process_sae_in(x).flatten(0, -2).contiguous()
        pre, k = self._pre_activations(sae_in), int(self.sae.cfg.k)
        if can_screen(pre, k) and screening_wins(pre, k):
            found, values = screen_top_k(pre, k, self._screen)
        else:
            found, values = select_top_k(pre, k)
        # NaN stays, as in SAELens: it tells that weights or inputs are broken
        active = ~(values <= 0)
        if bool(active.all()):
            return found, values
        return found.keep(active), values[active]

    @cached_property
    def _norms(self) -> torch.Tensor | None:
        if not self.sae.cfg.rescale_acts_by_decoder_norm:
            return None
        return self.sae.W_dec.data.norm(dim=-1)

    def _pre_activations(self, sae_in: torch.Tensor) -> PreActivations:
        weight, bias = self.sae.W_enc.data, self.sae.get_parameter("b_enc").data
        return PreActivations(sae_in, weight, bias, self._norms, weight.dtype)

    @cached_property
    def _screen(self) -> Screen:
        nothing = self.sae.W_enc.data.T[:0]
        return Screen.of(self._pre_activations(nothing), int(self.sae.cfg.k))
