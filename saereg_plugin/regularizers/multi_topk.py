"""Reconstruction loss at several times k (Multi-TopK, arXiv 2406.04093)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from sae_lens import BatchTopKTrainingSAEConfig, TopKTrainingSAEConfig
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.config import RegularizerConfig, count
from saereg_plugin.errors import InputError
from saereg_plugin.kernels.encode import ActiveLatents, NestedDecode
from saereg_plugin.registry import register_regularizer


@register_regularizer("multi_topk")
@dataclass(frozen=True, kw_only=True)
class MultiTopK(RegularizerConfig):
    """
    ``coefficient * L(multiple * k)``, so that the whole loss is ``L(k) + L(4k) / 8``.

    arXiv 2406.04093, Multi-TopK: L(m) is the squared error of the reconstruction by the m
    latents of the largest pre-activations, summed over d_in, its mean over the batch. The SAE
    then also reconstructs with another k than it was trained with. A sparse step stays sparse:
    it selects 4k latents once, of which the k largest are those of L(k).

    Args:
        coefficient: 1/8 in the source.
        multiple: of k, 2 or more; 4 in the source. Never more than d_sae latents.
    """

    needs_all_pre_activations: ClassVar[bool] = False

    coefficient: float = 0.125
    multiple: int = count(4, least=2)

    @property
    @override
    def selection_multiple(self) -> int:
        return self.multiple

    @override
    def check(self, sae_cfg: Any) -> None:
        # SAELens' BatchTopK configurations are also of TopK's class
        if not isinstance(sae_cfg, TopKTrainingSAEConfig) or isinstance(
            sae_cfg, BatchTopKTrainingSAEConfig
        ):
            raise InputError(
                f"multi_topk on {sae_cfg.architecture()}: it is defined for latents selected row by row. "
                "Use regularized_topk."
            )
        if sae_cfg.normalize_activations in ("constant_norm_rescale", "layer_norm"):
            raise InputError(
                f"multi_topk cannot be used with normalize_activations={sae_cfg.normalize_activations!r}, "
                "which acts inside the step. Use normalize_activations='expected_average_only_in'."
            )

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> MultiTopKModule:
        return MultiTopKModule(self, label=label)


class MultiTopKModule(Component):
    """The loss at several times k in training."""

    def __init__(self, cfg: MultiTopK, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg

    @override
    def loss(self, step: Step) -> torch.Tensor:
        sae = cast(Any, step.sae)
        coefficient = self.cfg.schedule.value(self.cfg.coefficient, step.index)
        k = min(self.cfg.multiple * int(sae.current_k), sae.cfg.d_sae)
        if step.wider is None:
            recons = _dense_reconstruction(sae, step.hidden_pre, k)
        else:
            recons = _sparse_reconstruction(sae, step.wider.of_k(k))
        target = step.sae_in.to(recons.dtype)
        error = sae.mse_loss_fn(recons, target).sum(dim=-1).mean()
        self.logged = {"coefficient": coefficient, "mse": error.detach()}
        return coefficient * error


def _dense_reconstruction(sae: Any, hidden_pre: torch.Tensor, k: int) -> torch.Tensor:
    """Return the reconstruction [..., d_in] by the k largest pre-activations [..., d_sae]."""
    values, latents = hidden_pre.to(sae.W_dec.dtype).topk(k, dim=-1, sorted=False)
    acts = torch.zeros_like(hidden_pre, dtype=sae.W_dec.dtype)
    acts = acts.scatter(-1, latents, values.relu())
    if sae.cfg.rescale_acts_by_decoder_norm:
        acts = acts / sae.W_dec.norm(dim=-1)
    return acts @ sae.W_dec + sae.b_dec


def _sparse_reconstruction(sae: Any, active: ActiveLatents) -> torch.Tensor:
    levels = NestedDecode.apply(
        active.acts, sae.W_dec, sae.b_dec, active.selected, (sae.cfg.d_sae,)
    )
    return cast(torch.Tensor, levels)[0]
