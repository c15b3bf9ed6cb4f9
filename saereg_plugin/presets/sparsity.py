"""FreqSAE and TemporalSAE: what is added to an L1-penalised ReLU SAE."""

from __future__ import annotations

from saereg_plugin.mechanics.base import MechanicConfig
from saereg_plugin.mechanics.gradient_clipping import GradientClipping
from saereg_plugin.mechanics.gradient_scaling import ActivationRateScaling
from saereg_plugin.mechanics.resampling import DeadLatentResampling
from saereg_plugin.mechanics.weight_decay import WeightDecay
from saereg_plugin.presets.base import Fields, Preset, Run, Widths
from saereg_plugin.presets.conversion import PaperLoss, sae_lens_coefficient
from saereg_plugin.regularizers import FrequencyWeightedL1, TemporalDifference

_LOSS = PaperLoss(error="sum", scale="unit_mean_square")
L1 = 0.04
"""Of both papers, at activations of unit mean squared norm."""


def freq_sae(
    *,
    d_in: int = 2304,
    d_sae: int = 2304,
    beta: float = 0.1,
    coefficient: float = L1,
    beta_warm_up_steps: int = 1000,
) -> Preset:
    """
    FreqSAE: lambda * sum_j (1 + beta f_j) |z_j| on Gemma-2-2B, layer 19.

    The paper is known here by its name only, without an arXiv id. lambda .04 is read in
    dictionary_learning's scale, whose grid of L1 penalties it comes from: E||x||^2 = 1 and
    an error summed over d_in. At SAELens' scale it is times sqrt(d_in): 1.92 at 2304. The
    penalty replaces SAELens' own L1.

    Stated: model, layer, d_sae, lambda, beta in {.1, .2, .5}, its warm-up over 1000 steps,
    the decay .99, unit-norm decoder by projection, Adam 3e-4, context 128, batch 2048, 20M
    tokens.

    Our choices (the paper does not say):

    - ``l1_coefficient``: 0; the weighted L1 replaces SAELens' own.
    - ``normalize_activations``: SAELens' E||x|| = sqrt(d_in); lambda is converted.
    - ``d_in``: that of the model.
    - ``corpus``: the Pile (uncopyrighted).
    - ``lr_warm_up_steps`` 0, ``lr_decay_fraction`` 0, ``seeds`` 0, 1, 2.
    - ``exclude_special_tokens``, ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``,
      ``dead_feature_window``: defaults of this package's sweeps.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        beta: how much a frequent latent's L1 grows; 0 is a plain L1.
        coefficient: the paper's lambda, in the paper's scale.
        beta_warm_up_steps: steps over which beta rises from 0.
    """

    def make(widths: Widths) -> Fields:
        scaled = sae_lens_coefficient(
            coefficient, paper=_LOSS, degree=1, d_in=widths.d_in
        )
        penalty = FrequencyWeightedL1(
            coefficient=scaled,
            beta=beta,
            beta_warm_up_steps=beta_warm_up_steps,
            decay=0.99,
        )
        return {
            "l1_coefficient": 0.0,
            "regularizers": [penalty.to_dict()],
            "decoder_constraint": "unit_norm",
            "normalize_activations": "expected_average_only_in",
        }

    ours = "default of this package's sweeps"
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
            *("model", "hook_name", "d_sae", "tokens", "batch_size", "context_size"),
            *("lr", "regularizers", "decoder_constraint"),
            *("frequency_weighted_l1.coefficient", "frequency_weighted_l1.beta"),
            "frequency_weighted_l1.beta_warm_up_steps",
            "frequency_weighted_l1.decay",
        ),
        chosen={
            "l1_coefficient": "0: the weighted L1 replaces SAELens' own",
            "normalize_activations": "SAELens' scale; lambda is converted",
            "d_in": "the model's",
            "corpus": "not stated",
            "lr_warm_up_steps": "not stated",
            "lr_decay_fraction": "not stated",
            "seeds": "not stated",
            "exclude_special_tokens": ours,
            "prepend_bos": ours,
            "buffer_tokens": ours,
            "mixing_fraction": ours,
            "dead_feature_window": ours,
        },
    )


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
    error, so lambda_2 stays as it is.

    Stated: model, layer, lambda_1, lambda_2, gamma .99, the sigmoid's 5, AdamW 3e-4, gradient
    norm clipped at .1, batch 2048, 4882 steps (10M tokens), resampling (EMA .99, threshold
    .005, every 100 steps to step 1000, then every 500), gradients times clip(1 / h, .1, 10).
    The paper's four runs are the penalty alone, + ``clipping``, + ``resampling``,
    + ``gradient_scaling``.

    Our choices (the paper does not say):

    - ``d_in``: that of the model. ``d_sae``: 16,384.
    - ``weight_decay.decay``: .01, the default of AdamW.
    - ``decoder_constraint``: unit_norm, with which SAELens' L1 is the plain one.
    - ``normalize_activations``: SAELens' E||x|| = sqrt(d_in); lambda_1 is converted.
    - ``corpus``: the Pile (uncopyrighted). ``context_size``: 128.
    - ``mixing_fraction`` 0, ``exclude_special_tokens`` False and ``prepend_bos`` True: the
      penalty needs tokens in order, from BOS on.
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
        sparsity = sae_lens_coefficient(l1, paper=_LOSS, degree=1, d_in=widths.d_in)
        temporal = sae_lens_coefficient(
            coefficient, paper=_LOSS, degree=2, d_in=widths.d_in
        )
        return {
            "l1_coefficient": sparsity,
            "regularizers": [TemporalDifference(coefficient=temporal).to_dict()],
            "mechanics": [each.to_dict() for each in mechanics],
            "decoder_constraint": "unit_norm",
            "normalize_activations": "expected_average_only_in",
        }

    ours, order = (
        "default of this package's sweeps",
        "the penalty needs tokens in order",
    )
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
        ),
        make=make,
        stated=(
            *("model", "hook_name", "tokens", "batch_size", "lr"),
            *("l1_coefficient", "regularizers", "mechanics"),
            *("temporal_difference.coefficient", "temporal_difference.decay"),
            *("temporal_difference.sharpness", "gradient_clipping.max_norm"),
            *("resampling", "activation_rate_scaling"),
        ),
        chosen={
            "d_in": "the model's",
            "d_sae": "not stated",
            "weight_decay.decay": "not stated; AdamW's default",
            "decoder_constraint": "not stated; makes SAELens' L1 the plain one",
            "normalize_activations": "SAELens' scale; lambda_1 is converted",
            "corpus": "not stated",
            "context_size": "not stated",
            "mixing_fraction": order,
            "exclude_special_tokens": order,
            "prepend_bos": order,
            "buffer_tokens": ours,
            "dead_feature_window": ours,
            "lr_warm_up_steps": "not stated",
            "lr_decay_fraction": "not stated",
            "seeds": "not stated",
        },
    )
