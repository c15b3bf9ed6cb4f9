"""Presets of weight regularisation (arXiv 2603.04198): language models and MNIST."""

from __future__ import annotations

from typing import Literal

from saereg_plugin.mechanics.k_annealing import KAnnealing
from saereg_plugin.presets.base import (
    IMAGES,
    NO_SCHEDULE,
    SAE_LENS_SCALE,
    Fields,
    PaperLoss,
    Preset,
    Run,
    because,
    sae_lens_coefficient,
)
from saereg_plugin.regularizers.frequency_weighted_l1 import FrequencyWeightedL1
from saereg_plugin.regularizers.weight_penalty import Norm, WeightPenalty

Penalty = Literal["none", "l1", "l2"]
AnyPenalty = Literal["none", "l1", "l2", "frobenius"]

_LANGUAGE_MODEL = PaperLoss(error="sum", scale="unit_mean_square")
_MNIST = PaperLoss(error="mean", scale="as_trained")
_PAPER = "2603.04198"
_STRENGTHS = {"none": 0.0, "l1": 1e-3, "l2": 1e-5, "frobenius": 1e-5}
_PENALTY = {
    "weight_penalty.mode": "in the loss; the paper has no other",
    "weight_penalty.mask": "none; the paper has no mask",
}
"""Reasons for both runs of the paper."""


def weight_regularized_topk(
    *,
    d_in: int = 512,
    d_sae: int = 16_384,
    k: int = 80,
    penalty: Penalty = "l2",
    coefficient: float = 1e-4,
    unit_norm: bool = True,
    k_annealing_steps: int | None = None,
) -> Preset:
    """
    TopK with a weight penalty on pythia-70m-deduped (arXiv 2603.04198).

    ``loss = ||x - x_hat||^2 + lambda (R(W_enc) + R(W_dec)) + AuxK`` with R the sum of |w| (l1)
    or of w^2 (l2), activations at unit mean squared norm. Under SAELens'
    ``expected_average_only_in`` the same behaviour needs lambda times d_in: 1e-4 becomes
    .0512 at d_in 512.

    The stored L2 trainers skip the decoder's normalisation though the paper states it:
    ``unit_norm=False`` is that reading: it changes nothing else (rows start at norm 1, and
    latents are ranked by plain activations).

    Args:
        d_in: width of the activations.
        d_sae: latents.
        k: active latents; the paper has 40, 80, 150 and 320.
        penalty: ``none`` | ``l1`` | ``l2``, on encoder and decoder.
        coefficient: the paper's lambda, in the paper's scale.
        unit_norm: decoder rows of norm 1, or free.
        k_annealing_steps: None is 1 % of the paper's steps; give 1 % of yours.
    """
    run = Run(
        model="pythia-70m-deduped",
        hook_name="blocks.3.hook_resid_post",
        corpus="monology/pile-uncopyrighted",
        tokens=50_000_000,
        batch_size=2048,
        context_size=1024,
        lr=5e-5,
        lr_warm_up_steps=1000,
        lr_decay_fraction=0.2,
        dead_feature_window=10_000_000 // 2048 + 1,
        seeds=(0, 1, 2),
    )

    annealed = run.steps // 100 if k_annealing_steps is None else k_annealing_steps

    def make(d_in: int, _: int) -> Fields:
        scaled = sae_lens_coefficient(
            coefficient, paper=_LANGUAGE_MODEL, degree=0, d_in=d_in
        )
        return {
            "k": k,
            "regularizers": _weight_penalty(penalty, scaled),
            "mechanics": [KAnnealing(steps=annealed).to_dict()],
            "decoder_constraint": "unit_norm" if unit_norm else "none",
            "initialization": "tied",
            # as with unit norm: by default SAELens would rank by rescaled activations, and
            # an L2 on both matrices would become a group lasso on their products
            "decoder_init_norm": 1.0,
            "rescale_acts_by_decoder_norm": False,
            "b_dec_init": "geometric_median",
            "max_norm_multiple": 10.0,
            "normalize_activations": "expected_average_only_in",
            "auxk_scaling": "dictionary_learning",
            "aux_loss_coefficient": sae_lens_coefficient(
                1.0, paper=_LANGUAGE_MODEL, degree=0, d_in=d_in
            ),
        }

    return Preset(
        name="weight_regularized_topk",
        paper=_PAPER,
        architecture="regularized_topk",
        d_in=d_in,
        d_sae=d_sae,
        run=run,
        make=make,
        stated=(
            *("architecture", "model", "hook_name", "corpus", "tokens", "batch_size"),
            *("context_size", "lr", "lr_warm_up_steps", "lr_decay_fraction"),
            "dead_feature_window",
            *("seeds", "exclude_special_tokens", "d_in", "d_sae", "k"),
            *("decoder_constraint", "max_norm_multiple", "regularizers", "mechanics"),
            *("weight_penalty.norm", "weight_penalty.target"),
            *("weight_penalty.reduction", "weight_penalty.coefficient"),
            "k_annealing.steps",
        ),
        chosen={
            **_PENALTY,
            "decoder_init_norm": "rows start at norm 1, free or not",
            "rescale_acts_by_decoder_norm": "the paper ranks latents by plain activations",
            "b_dec_init": "geometric median of the first batch, as in the public training code",
            "normalize_activations": f"{SAE_LENS_SCALE}; the coefficient is converted",
            "aux_loss_coefficient": (
                "d_in, which is 1 in the paper's scale: AuxK is over a variance and does not grow "
                "with activations, and the error does"
            ),
            "auxk_scaling": (
                "1/32 is stated, the denominator is not: dictionary_learning's is the variance of "
                "the residual, OpenAI's another"
            ),
            "prepend_bos": "contexts begin with BOS, which is left out of training",
            "weight_penalty.schedule": "constant; annealing is future work in the paper",
        },
    )


def weight_regularized_mnist(
    *, d_in: int = 784, d_sae: int = 1568, tied: bool = True, penalty: AnyPenalty = "l1"
) -> Preset:
    """
    The MNIST SAEs (arXiv 2603.04198) as a SAELens configuration.

    The paper's loss averages the squared error over pixels and the L1 over latents:
    ``mean (x - x_hat)^2 + .1 mean |z| + penalty``. SAELens sums the error over pixels, d_in
    times as much, so everything else is multiplied by d_in: the L1 becomes
    ``.1 d_in / d_sae * sum |z|`` (.05 at 784 and 1568), the weight penalties ``d_in`` times
    1e-3 (l1, of means) or 1e-5 (l2, a sum of squares; frobenius, un-squared norms). For the
    paper's row "tied, L2" the public notebook takes un-squared norms
    (``penalty="frobenius"``), and sums of squares (``penalty="l2"``) for untied SAEs only;
    the published row is that of ``penalty="l2"`` (docs/studies/mnist.md).

    ``saereg-bench study mnist`` trains the paper's runs in a loop of its own; this preset
    is for SAELens' runners, and differs from the paper where SAELens does: it clips
    gradients at 1.0, always trains b_enc and b_dec (the paper's untied SAEs have neither),
    and projects the decoder's gradient where the paper only renormalises. Adam adds 1e-8 to
    the root of a mean square; gradients that are d_in times as large feel less of it, and
    those of the penalties are so small in the paper's loss (8e-10 for l1) that latents
    without other gradients shrink faster here.

    Args:
        d_in: pixels.
        d_sae: latents.
        tied: start tied with unit-norm rows, or untied and free.
        penalty: ``none`` | ``l1`` | ``l2`` | ``frobenius``.
    """

    def make(d_in: int, d_sae: int) -> Fields:
        def scaled(value: float, degree: int) -> float:
            return sae_lens_coefficient(value, paper=_MNIST, degree=degree, d_in=d_in)

        activations = FrequencyWeightedL1(
            coefficient=scaled(0.1, 1) / d_sae,
            beta=0.0,
            beta_warm_up_steps=0,
            label="activation_l1",
        )
        reduction = "mean" if penalty == "l1" else "sum"
        weights = _weight_penalty(
            penalty, scaled(_STRENGTHS[penalty], 0), reduction=reduction
        )
        return {
            "l1_coefficient": 0.0,
            "regularizers": [activations.to_dict(), *weights],
            "decoder_constraint": "unit_norm" if tied else "none",
            "initialization": "tied" if tied else "untied",
            "b_dec_init": "geometric_median" if tied else "zero",
            "normalize_activations": "none",
        }

    return Preset(
        name="weight_regularized_mnist",
        paper=_PAPER,
        architecture="regularized_standard",
        d_in=d_in,
        d_sae=d_sae,
        run=Run(
            tokens=100 * 60_000,
            batch_size=512,
            lr=1e-3,
            lr_decay_fraction=0.0,
            seeds=(0, 1, 2),
        ),
        make=make,
        stated=(
            *("tokens", "batch_size", "lr", "seeds", "d_in", "d_sae"),
            *("frequency_weighted_l1.coefficient", "weight_penalty.coefficient"),
            *("weight_penalty.norm", "weight_penalty.target"),
            "weight_penalty.reduction",
        ),
        chosen={
            **IMAGES,
            **_PENALTY,
            **because(
                "of no use on images",
                *("model", "hook_name", "corpus", "dead_feature_window"),
            ),
            **because(
                NO_SCHEDULE, "frequency_weighted_l1.schedule", "weight_penalty.schedule"
            ),
            "architecture": "a ReLU SAE, as SAELens has it",
            "frequency_weighted_l1.beta": "0: a plain L1",
            "frequency_weighted_l1.beta_warm_up_steps": "0: beta is 0",
            "frequency_weighted_l1.decay": "of no use: beta is 0",
            "frequency_weighted_l1.times_decoder_norm": "off: a plain L1",
            "b_dec_init": (
                "geometric median if tied, as in the public notebook; untied SAEs have no b_dec there"
            ),
            "decoder_init_norm": "rows of norm 1 if tied, as drawn if untied",
            "regularizers": "a plain L1 of activations is frequency_weighted_l1 with beta 0",
            "l1_coefficient": "0: SAELens' L1 is weighted by the decoder's norms",
            "initialization": "the paper's tied and untied starts",
            "decoder_constraint": "the paper renormalises without projection",
            "normalize_activations": "pixels are in [0, 1]",
        },
    )


def _weight_penalty(
    penalty: AnyPenalty,
    coefficient: float,
    *,
    reduction: Literal["sum", "mean"] = "sum",
) -> list[Fields]:
    """Return the penalty on encoder and decoder as a list of none or one."""
    if penalty == "none":
        return []
    norm: Norm = penalty
    return [
        WeightPenalty(
            norm=norm, target="both", reduction=reduction, coefficient=coefficient
        ).to_dict()
    ]
