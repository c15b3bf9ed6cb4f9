"""TemporalSAE: a penalty on the change between neighbouring tokens, and its mechanics."""

from __future__ import annotations

from saereg_plugin.mechanics.base import MechanicConfig
from saereg_plugin.mechanics.gradient_clipping import GradientClipping
from saereg_plugin.mechanics.rate_scaling import ActivationRateScaling
from saereg_plugin.mechanics.resampling import DeadLatentResampling
from saereg_plugin.mechanics.weight_decay import WeightDecay
from saereg_plugin.presets.base import (
    CONSTANT,
    STANDARD,
    SWEEP,
    Fields,
    Preset,
    Run,
    Widths,
    sae_lens_coefficient,
    without,
)
from saereg_plugin.presets.frequency import L1, LOSS
from saereg_plugin.regularizers import TemporalDifference


def temporal_sae(
    *,
    d_in: int = 2048,
    d_sae: int = 16_384,
    l1: float = L1,
    coefficient: float = 1e-4,
    clipping: bool = True,
    resampling: bool = True,
    gradient_scaling: bool = True,
) -> Preset:
    """
    TemporalSAE: alpha_t ||z_t - z_(t-1)||^2 beside an L1, on Gemma-2B, layer 12.

    The paper is known here by its name only, without an arXiv id. lambda_1 .04 and lambda_2
    1e-4 are read in dictionary_learning's scale (E||x||^2 = 1, an error summed over d_in).
    At SAELens' scale the L1 is times sqrt(d_in); the temporal penalty is a square like the
    error, so lambda_2 stays as it is. But alpha_t is another: the paper's L_recon is summed
    over dimensions, which makes alpha 0 or 1 at this scale; here it is the mean over
    elements, with which alpha lies in between.

    Stated: model, layer, lambda_1, lambda_2, gamma .99, the sigmoid's 5, AdamW 3e-4, a gradient
    norm clipped at .1 (in the paper's scale), batch 2048, 4882 steps (10M tokens), resampling (EMA .99, threshold
    .005, every 100 steps to step 1000, then every 500), gradients times clip(1 / h, .1, 10).
    The paper's four runs are the penalty alone, + ``clipping``, + ``resampling``,
    + ``gradient_scaling``.

    Our choices (the paper does not say):

    - ``d_in``: that of the model. ``d_sae``: 16,384.
    - ``temporal_difference.average_start`` zero, ``temporal_difference.reduction`` mean over
      pairs, ``temporal_difference.schedule`` constant.
    - ``weight_decay.decay``: .01, the default of AdamW; ``weight_decay.target``: all.
    - ``gradient_clipping.max_norm``: .1, though this loss, and the gradient of its weights, is
      d_in times the paper's: .1 d_in would be above SAELens' own clipping at 1.0, which
      cannot be turned off. So clipping acts more often here than in the paper; Adam divides
      most of a common factor out again.
    - ``resampling.stop`` never, ``resampling.subtract_b_dec`` off, ``resampling.norm`` 1.
    - Left as SAELens has them: ``initialization``, ``b_dec_init``, ``decoder_init_norm``,
      ``apply_b_dec_to_input``, ``max_norm_multiple``, ``l1_warm_up_steps``, ``lp_norm``.
    - ``decoder_constraint``: unit_norm, with which SAELens' L1 is the plain one.
    - ``normalize_activations``: SAELens' E||x|| = sqrt(d_in); lambda_1 is converted.
    - ``corpus``: the Pile (uncopyrighted). ``context_size``: 128.
    - ``mixing_fraction`` 0, ``exclude_special_tokens`` False and ``prepend_bos`` True: the
      penalty needs tokens in order, from BOS on. ``disable_concat_sequences`` True: each
      context is the beginning of one document, so that no pair of tokens spans two.
    - ``buffer_tokens``, ``dead_feature_window``: defaults of this package's sweeps.
    - ``lr_warm_up_steps`` 0, ``lr_decay_fraction`` 0, ``seeds`` 0, 1, 2.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        l1: the paper's lambda_1, in the paper's scale.
        coefficient: the paper's lambda_2.
        clipping: clip the gradient's norm at .1.
        resampling: start dead latents anew.
        gradient_scaling: scale gradients by how rarely a latent fires.
    """
    mechanics: list[MechanicConfig] = [WeightDecay(decay=0.01)]
    if clipping:
        mechanics.append(GradientClipping(max_norm=0.1))
    if resampling:
        mechanics.append(DeadLatentResampling())
    if gradient_scaling:
        mechanics.append(ActivationRateScaling())

    def make(widths: Widths) -> Fields:
        sparsity = sae_lens_coefficient(l1, paper=LOSS, degree=1, d_in=widths.d_in)
        temporal = sae_lens_coefficient(
            coefficient, paper=LOSS, degree=2, d_in=widths.d_in
        )
        return {
            "l1_coefficient": sparsity,
            "regularizers": [TemporalDifference(coefficient=temporal).to_dict()],
            "mechanics": [each.to_dict() for each in mechanics],
            "decoder_constraint": "unit_norm",
            "normalize_activations": "expected_average_only_in",
        }

    order = "the penalty needs tokens in order"
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
            "d_sae": "not stated",
            **STANDARD,
            "temporal_difference.average_start": "not stated; beta starts at 0",
            "temporal_difference.reduction": (
                "not stated; mean over pairs. The L_recon in alpha is the mean over elements, where "
                "the paper sums over dimensions: alpha lies between 0 and 1 instead of at either"
            ),
            "temporal_difference.schedule": CONSTANT,
            "weight_decay.decay": "not stated; AdamW's default",
            "weight_decay.target": "not stated; every parameter, as AdamW",
            "gradient_clipping.max_norm": ".1 is stated, of a gradient d_in times smaller",
            "resampling.stop": "not stated; never",
            "resampling.subtract_b_dec": "the formula has x_k itself",
            "resampling.norm": "1, that of the decoder's rows",
            "decoder_constraint": "not stated; makes SAELens' L1 the plain one",
            "normalize_activations": "SAELens' scale; lambda_1 is converted",
            "corpus": "not stated",
            "context_size": "not stated",
            **without(
                SWEEP,
                *("mixing_fraction", "exclude_special_tokens", "prepend_bos"),
                "disable_concat_sequences",
            ),
            "mixing_fraction": order,
            "exclude_special_tokens": order,
            "prepend_bos": order,
            "disable_concat_sequences": "no pair of neighbouring tokens spans two documents",
            "lr_warm_up_steps": "not stated",
            "lr_decay_fraction": "not stated",
            "seeds": "not stated",
        },
    )
