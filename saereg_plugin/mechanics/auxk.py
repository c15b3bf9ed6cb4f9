"""Scalings of the auxiliary loss of dead latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from sae_lens import MatryoshkaBatchTopKTrainingSAE, TopKTrainingSAE
from typing_extensions import override

AuxKScaling = Literal["sae_lens", "openai", "dictionary_learning", "sparsify"]

_WEIGHT = 1 / 32
"""alpha of arXiv 2406.04093, appendix A.2."""


def rectifies(scaling: AuxKScaling) -> bool:
    """Whether dead latents answer with ``relu`` of their pre-activations; SAELens' do not."""
    return scaling != "sae_lens"


def auxk_scale(
    scaling: AuxKScaling,
    *,
    n_dead: int,
    k_aux: int,
    x: torch.Tensor,
    residual: torch.Tensor,
) -> torch.Tensor | float:
    """
    Return the factor of the mean squared error of the residual's reconstruction.

    With ``e = x - x_hat`` the residual, ``e_hat`` its reconstruction by the k_aux dead latents
    of the largest pre-activations, ``A = mean_i ||e_hat_i - e_i||^2`` and
    ``var(y) = mean_i ||y_i - mean(y)||^2`` over the batch, the loss is

    - ``sae_lens``: ``min(n_dead / k_aux, 1) A``;
    - ``openai``: ``A / (32 var(x))``, arXiv 2406.04093: squared errors are normalised by that
      of predicting the mean activation;
    - ``dictionary_learning``: ``A / (32 var(e))``, as in OpenAI's training script;
    - ``sparsify``: ``min(n_dead / k_aux, 1) A / var(x)``.

    The variances are constants: no gradient runs through them. Where one is 0 (a batch of
    one row) the loss is 0.

    Args:
        scaling: name of the scaling.
        n_dead: number of dead latents.
        k_aux: number that may answer, d_in / 2; not lowered to ``n_dead``.
        x: [batch, d_in].
        residual: [batch, d_in].
    """
    share = min(n_dead / k_aux, 1.0)
    if scaling == "sae_lens":
        return share
    if scaling == "sparsify":
        return share * _inverse_variance(x)
    return _WEIGHT * _inverse_variance(x if scaling == "openai" else residual)


@torch.no_grad()
def _inverse_variance(y: torch.Tensor) -> torch.Tensor:
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    variance = (wide - wide.mean(dim=0)).square().sum(dim=-1).mean()
    return torch.where(variance > 0, variance.reciprocal(), torch.zeros_like(variance))


_Base = TopKTrainingSAE if TYPE_CHECKING else object
_Matryoshka = MatryoshkaBatchTopKTrainingSAE if TYPE_CHECKING else object


class ScaledAuxKMixin(_Base):
    """Put before SAELens' TopK kinds to obey ``auxk_scaling``; "sae_lens" is theirs, untouched."""

    cfg: Any

    @override
    def calculate_topk_aux_loss(
        self,
        sae_in: torch.Tensor,
        sae_out: torch.Tensor,
        hidden_pre: torch.Tensor,
        dead_neuron_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        if self.cfg.auxk_scaling == "sae_lens":
            return super().calculate_topk_aux_loss(
                sae_in, sae_out, hidden_pre, dead_neuron_mask
            )
        if dead_neuron_mask is None:
            return sae_out.new_zeros(())
        dead = dead_neuron_mask.nonzero().squeeze(1)
        loss = self._scaled_auxk(sae_in, sae_out, hidden_pre, dead)
        return self.cfg.aux_loss_coefficient * loss

    def _scaled_auxk(
        self,
        sae_in: torch.Tensor,
        sae_out: torch.Tensor,
        hidden_pre: torch.Tensor,
        dead: torch.Tensor,
    ) -> torch.Tensor:
        if dead.numel() == 0:
            return sae_out.new_zeros(())
        residual = (sae_in - sae_out).detach()
        k_aux = sae_in.shape[-1] // 2
        # a latent that answers with 0 does not answer, so ranking after the ReLU is the same
        values, columns = hidden_pre[:, dead].relu().topk(min(k_aux, dead.numel()))
        acts = hidden_pre.new_zeros(len(hidden_pre), dead.numel())
        acts = acts.scatter(1, columns, values)
        rows = self.W_dec[dead]
        if self.cfg.rescale_acts_by_decoder_norm:
            rows = rows / rows.norm(dim=-1, keepdim=True)
        error = (acts @ rows - residual).square().sum(dim=-1).mean()
        scale = auxk_scale(
            self.cfg.auxk_scaling,
            n_dead=dead.numel(),
            k_aux=k_aux,
            x=sae_in,
            residual=residual,
        )
        return scale * error


class ScaledMatryoshkaAuxKMixin(ScaledAuxKMixin, _Matryoshka):
    """``ScaledAuxKMixin`` for Matryoshka SAEs, by level with ``use_matryoshka_aux_loss``."""

    @override
    def calculate_matryoshka_aux_loss(
        self,
        sae_in: torch.Tensor,
        sae_out: torch.Tensor,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        dead_neuron_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        if self.cfg.auxk_scaling == "sae_lens":
            return super().calculate_matryoshka_aux_loss(
                sae_in, sae_out, feature_acts, hidden_pre, dead_neuron_mask
            )
        total = sae_out.new_zeros(())
        if dead_neuron_mask is None or not dead_neuron_mask.any():
            return total
        start = 0
        for width, level in self._iterable_decode(
            feature_acts, include_outer_loss=True
        ):
            dead = dead_neuron_mask[start:width].nonzero().squeeze(1) + start
            total = total + self._scaled_auxk(sae_in, level, hidden_pre, dead)
            start = width
        return self.cfg.aux_loss_coefficient * total
