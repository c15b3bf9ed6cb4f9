"""Encoding by saved TopK SAEs, as sparse matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from sae_lens import SAE, TopKSAE
from sae_lens.saes.topk_sae import TopK

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
    """
    Return whether ``TopKEncoder`` takes an SAE as it is.

    That is with no hook in use and outside autocast, which encodes in its own data type.
    """
    return (
        type(sae) is TopKSAE
        and type(sae.activation_fn) is TopK
        and sae.W_enc.dtype in (torch.float32, torch.float64)
        and not sae.use_error_term
        and not any(is_in_use(hook) for hook in sae.hook_dict.values())
        and not torch.is_autocast_enabled(sae.W_enc.device.type)
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
    memory; ``sae.decode`` takes the result. No gradients. For many batches make a
    ``TopKEncoder`` once.

    Args:
        sae: SAELens' ``TopKSAE`` in float32 or float64.
        x: what ``sae.encode`` takes, mostly [..., d_in].

    Returns:
        Sparse COO tensor of the shape of ``sae.encode(x)``.

    Raises:
        InputError: for other SAEs, under autocast, and where a hook point is in use, which
            sees dense activations.

    >>> from sae_lens import TopKSAE, TopKSAEConfig
    >>> sae = TopKSAE(TopKSAEConfig(d_in=4, d_sae=64, k=2))
    >>> x = torch.randn(3, 4)
    >>> torch.allclose(encode_top_k(sae, x).to_dense(), sae.encode(x))
    True
    """
    return TopKEncoder(sae, reused=False)(x)


@dataclass(frozen=True)
class TopKEncoder:
    """
    The encoder of a saved TopK SAE, prepared once for many batches.

    Attributes:
        sae: SAELens' ``TopKSAE`` in float32 or float64, whose weights do not change.
        reused: whether many batches follow, so that it pays to prepare for small ones.

    Raises:
        InputError: for other SAEs, and where a hook point is in use; when it encodes, also
            under autocast.
    """

    sae: SAE[Any]
    reused: bool = True

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        if not can_encode_top_k(self.sae):
            raise InputError(
                "Encodes SAELens' TopKSAE with float32 or float64 weights and no hook in use, outside "
                f"autocast; this is a {type(self.sae).__name__} in {self.sae.W_enc.dtype}. Call its "
                "encode()."
            )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``sae.encode(x)`` as a sparse COO tensor, without gradients."""
        with torch.no_grad():
            sae_in = self.sae.process_sae_in(x)
            selected, acts = self._active(sae_in)
        leading = sae_in.shape[:-1]
        if len(leading) == 1:
            return selected.to_coo(acts)
        places = torch.unravel_index(selected.rows, leading) if leading else ()
        return torch.sparse_coo_tensor(
            torch.stack([*places, selected.latents]),
            acts,
            (*leading, selected.d_sae),
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
        return self._active(self.sae.process_sae_in(x))

    def _active(self, sae_in: torch.Tensor) -> tuple[Selected, torch.Tensor]:
        self._check()
        rows = sae_in.reshape(-1, sae_in.shape[-1]).contiguous()
        pre, k = self._pre_activations(rows), self._k
        if can_screen(pre, k) and screening_wins(pre, k, prepared=self.reused):
            found, values = screen_top_k(pre, k, self._screen)
        else:
            found, values = select_top_k(pre, k)
        # NaN stays, as in SAELens: it tells that weights or inputs are broken
        active = ~(values <= 0)
        if bool(active.all()):
            return found, values
        return found.keep(active), values[active]

    @property
    def _k(self) -> int:
        # that of encode(), which may be another than the configuration's
        return int(cast(TopK, self.sae.activation_fn).k)

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
        return Screen.of(self._pre_activations(nothing), self._k)
