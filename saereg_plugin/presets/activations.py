"""Presets of penalties on activations: FreqSAE, TemporalSAE, off-support L1, L1/L2 ratio."""

from __future__ import annotations

from saereg_plugin.config import MechanicConfig
from saereg_plugin.mechanics.gradient_clipping import GradientClipping
from saereg_plugin.mechanics.rate_scaling import ActivationRateScaling
from saereg_plugin.mechanics.resampling import DeadLatentResampling
from saereg_plugin.mechanics.weight_decay import WeightDecay
from saereg_plugin.presets.base import (
    IMAGES,
    NO_SCHEDULE,
    SAE_LENS_SCALE,
    UNIT_NORM,
    Fields,
    PaperLoss,
    Preset,
    Run,
    because,
    sae_lens_coefficient,
)
from saereg_plugin.regularizers.activation_penalty import (
    ActivationMask,
    ActivationPenalty,
)
from saereg_plugin.regularizers.frequency_weighted_l1 import FrequencyWeightedL1
from saereg_plugin.regularizers.l1_l2_ratio import L1L2Ratio
from saereg_plugin.regularizers.off_support import OffSupportL1
from saereg_plugin.regularizers.temporal_difference import TemporalDifference

_LOSS = PaperLoss(error="sum", scale="unit_mean_square")
_L1 = 0.04
"""Of FreqSAE and TemporalSAE, at activations of unit mean squared norm."""


def freq_sae(
    *,
    d_in: int = 2304,
    d_sae: int = 2304,
    beta: float = 0.1,
    coefficient: float = _L1,
    beta_warm_up_steps: int = 1000,
) -> Preset:
    """
    FreqSAE: lambda * sum_j (1 + beta f_j) |z_j| on Gemma-2-2B, layer 19.

    The paper is known here by its name only, without an arXiv id. lambda .04 is read in
    dictionary_learning's scale, whose grid of L1 penalties it comes from: E||x||^2 = 1 and
    an error summed over d_in. At SAELens' scale it is times sqrt(d_in): 1.92 at 2304. The
    penalty replaces SAELens' own L1.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        beta: growth of a frequent latent's L1; the paper has .1, .2 and .5, and 0 is a
            plain L1.
        coefficient: the paper's lambda, in the paper's scale.
        beta_warm_up_steps: steps over which beta rises from 0.
    """

    def make(d_in: int, _: int) -> Fields:
        penalty = FrequencyWeightedL1(
            coefficient=sae_lens_coefficient(
                coefficient, paper=_LOSS, degree=1, d_in=d_in
            ),
            beta=beta,
            beta_warm_up_steps=beta_warm_up_steps,
            decay=0.99,
        )
        return {"l1_coefficient": 0.0, "regularizers": [penalty.to_dict()], **UNIT_NORM}

    return Preset(
        name="freq_sae",
        paper="FreqSAE (no arXiv id known)",
        architecture="regularized_standard",
        d_in=d_in,
        d_sae=d_sae,
        run=Run(
            model="gemma-2-2b",
            hook_name="blocks.19.hook_resid_post",
            corpus="monology/pile-uncopyrighted",
            tokens=20_000_000,
            batch_size=2048,
            context_size=128,
            lr=3e-4,
            lr_decay_fraction=0.0,
        ),
        make=make,
        stated=(
            *("architecture", "model", "hook_name", "d_sae", "tokens", "batch_size"),
            *("context_size", "lr", "regularizers", "decoder_constraint"),
            *("frequency_weighted_l1.coefficient", "frequency_weighted_l1.beta"),
            "frequency_weighted_l1.beta_warm_up_steps",
            "frequency_weighted_l1.decay",
        ),
        chosen={
            "d_in": "the model's",
            "frequency_weighted_l1.times_decoder_norm": "off: rows have norm 1",
            "frequency_weighted_l1.schedule": NO_SCHEDULE,
            "l1_coefficient": "0: the weighted L1 replaces SAELens' own",
            "normalize_activations": "SAELens' scale; lambda is converted",
        },
    )


def temporal_sae(
    *,
    d_in: int = 2048,
    d_sae: int = 16_384,
    l1: float = _L1,
    coefficient: float = 1e-4,
    clipping: bool = True,
    resampling: bool = True,
    gradient_scaling: bool = True,
) -> Preset:
    """
    TemporalSAE: alpha_t ||z_t - z_(t-1)||^2 next to an L1, on Gemma-2B, layer 12.

    The paper is known here by its name only, without an arXiv id. lambda_1 .04 and lambda_2
    1e-4 are read in dictionary_learning's scale (E||x||^2 = 1, an error summed over d_in).
    At SAELens' scale the L1 is times sqrt(d_in); the temporal penalty is a square like the
    error, so lambda_2 stays as it is. But alpha_t is another: the paper's L_recon is summed
    over dimensions, which makes alpha 0 or 1 at this scale; here it is the mean over
    elements, with which alpha lies in between.

    The paper's four runs are the penalty alone, + ``clipping``, + ``resampling``,
    + ``gradient_scaling``.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        l1: the paper's lambda_1, in the paper's scale.
        coefficient: the paper's lambda_2.
        clipping: clip the gradient's norm at .1. This loss, and the gradient of its weights,
            is d_in times the paper's, so clipping acts more often than in the paper; Adam
            divides most of a common factor out again.
        resampling: restart dead latents.
        gradient_scaling: scale gradients by how rarely a latent fires.
    """
    mechanics: list[MechanicConfig] = [WeightDecay(decay=0.01)]
    if clipping:
        mechanics.append(GradientClipping(max_norm=0.1))
    if resampling:
        mechanics.append(DeadLatentResampling())
    if gradient_scaling:
        mechanics.append(ActivationRateScaling())

    def make(d_in: int, _: int) -> Fields:
        temporal = sae_lens_coefficient(coefficient, paper=_LOSS, degree=2, d_in=d_in)
        return {
            "l1_coefficient": sae_lens_coefficient(
                l1, paper=_LOSS, degree=1, d_in=d_in
            ),
            "regularizers": [TemporalDifference(coefficient=temporal).to_dict()],
            "mechanics": [each.to_dict() for each in mechanics],
            **UNIT_NORM,
        }

    in_order = ("mixing_fraction", "exclude_special_tokens", "prepend_bos")
    return Preset(
        name="temporal_sae",
        paper="TemporalSAE (no arXiv id known)",
        architecture="regularized_standard",
        d_in=d_in,
        d_sae=d_sae,
        run=Run(
            model="gemma-2b",
            hook_name="blocks.12.hook_resid_post",
            corpus="monology/pile-uncopyrighted",
            tokens=10_000_000,
            batch_size=2048,
            context_size=128,
            lr=3e-4,
            lr_decay_fraction=0.0,
            exclude_special_tokens=False,
            mixing_fraction=0.0,
            disable_concat_sequences=True,
        ),
        make=make,
        stated=(
            *("architecture", "model", "hook_name", "tokens", "batch_size", "lr"),
            *("l1_coefficient", "regularizers", "mechanics"),
            *("temporal_difference.coefficient", "temporal_difference.decay"),
            "temporal_difference.sharpness",
            *(
                f"resampling.{field}"
                for field in ("decay", "threshold", "every", "until", "then_every")
            ),
            *(
                f"activation_rate_scaling.{field}"
                for field in ("decay", "least", "most")
            ),
        ),
        chosen={
            "d_in": "the model's",
            **because("the penalty needs tokens in order, from BOS on", *in_order),
            "disable_concat_sequences": "no pair of neighbouring tokens spans two documents",
            "temporal_difference.reduction": (
                "not stated; mean over pairs. The L_recon in alpha is the mean over elements, where "
                "the paper sums over dimensions: alpha lies between 0 and 1 instead of at either"
            ),
            "temporal_difference.schedule": NO_SCHEDULE,
            **because(
                "not stated; as AdamW", "weight_decay.decay", "weight_decay.target"
            ),
            "gradient_clipping.max_norm": ".1 is stated, of a gradient d_in times smaller",
            "resampling.subtract_b_dec": "the formula has x_k itself",
            "resampling.norm": "1, that of the decoder's rows",
            "decoder_constraint": "not stated; makes SAELens' L1 the plain one",
            "normalize_activations": "SAELens' scale; lambda_1 is converted",
        },
    )


def off_support_topk(
    *,
    d_in: int = 768,
    d_sae: int = 8192,
    k: int = 32,
    coefficient: float = 1e-3,
    mask: ActivationMask = "batch_active",
) -> Preset:
    """
    TopK with an L1 on what TopK drops: lambda * mean_i ||mu (a_i - z_i)||_1 (arXiv 2606.27321).

    The paper trains on CLIP embeddings of ImageNet with k in {32, 64, 128} and takes the
    largest lambda whose test R^2 is at least the baseline's (``saereg-bench study
    topk-regularizers`` does). ``coefficient`` is in units of activations with
    E||x||^2 = 1 and an error summed over d_in; at SAELens' scale it is times sqrt(d_in), as
    the L1 grows with activations and the error with their square. A sum over the batch,
    as published, is this mean times the batch size.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        k: active latents.
        coefficient: lambda, see above.
        mask: ``batch_active``, or ``none`` for the paper's ablation.
    """
    penalty = OffSupportL1(coefficient=coefficient, mask=mask)
    return _vision("off_support_topk", penalty, d_in, d_sae, k, degree=1)


def l1_l2_ratio_topk(
    *,
    d_in: int = 768,
    d_sae: int = 8192,
    k: int = 32,
    coefficient: float = 1e-3,
    mask: ActivationMask = "batch_active",
) -> Preset:
    """
    TopK with lambda * mean_i ||mu a_i||_1 / ||mu a_i||_2 (arXiv 2606.27321).

    As ``off_support_topk``; the ratio does not grow with activations, so at SAELens' scale
    ``coefficient`` is times d_in.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        k: active latents.
        coefficient: lambda, see above.
        mask: ``batch_active``, or ``none`` for the paper's ablation.
    """
    penalty = L1L2Ratio(coefficient=coefficient, mask=mask)
    return _vision("l1_l2_ratio_topk", penalty, d_in, d_sae, k, degree=0)


def _vision(
    name: str, penalty: ActivationPenalty, d_in: int, d_sae: int, k: int, *, degree: int
) -> Preset:
    """Return the preset of a TopK SAE with ``penalty`` on embeddings of a vision model."""

    def make(d_in: int, _: int) -> Fields:
        scaled = sae_lens_coefficient(
            penalty.coefficient, paper=_LOSS, degree=degree, d_in=d_in
        )
        fields = {**penalty.to_dict(), "coefficient": scaled}
        return {"k": k, "regularizers": [fields], **UNIT_NORM}

    return Preset(
        name=name,
        paper="2606.27321",
        architecture="regularized_topk",
        d_in=d_in,
        d_sae=d_sae,
        run=Run(tokens=10_000_000, batch_size=2048, lr=3e-4),
        make=make,
        stated=("d_sae", "k", "regularizers", f"{penalty.name}.mask"),
        chosen={
            **IMAGES,
            **because(
                "CLIP on ImageNet: no language model", "model", "hook_name", "corpus"
            ),
            "d_in": "the width of CLIP's embedding depends on the tower; 768",
            "decoder_constraint": "unit_norm: activations are then in units of the input",
            "normalize_activations": SAE_LENS_SCALE,
            f"{penalty.name}.coefficient": (
                "found by the paper's rule: the largest lambda whose R^2 is at least the baseline's"
            ),
            f"{penalty.name}.reduction": (
                "mean over the batch, which does not depend on its size; the paper sums"
            ),
            f"{penalty.name}.schedule": NO_SCHEDULE,
        },
    )
