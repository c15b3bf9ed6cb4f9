"""Weight regularisation on MNIST (arXiv 2603.04198) under SAELens' runners."""

from __future__ import annotations

from saereg_plugin.presets.base import (
    CONSTANT,
    IMAGES,
    STANDARD,
    Fields,
    PaperLoss,
    Preset,
    Run,
    Widths,
    sae_lens_coefficient,
)
from saereg_plugin.presets.weight_regularization import (
    PAPER,
    AnyPenalty,
    weight_penalty,
)
from saereg_plugin.regularizers import FrequencyWeightedL1

_LOSS = PaperLoss(error="mean", scale="as_trained")
_STRENGTHS = {"none": 0.0, "l1": 1e-3, "l2": 1e-5, "frobenius": 1e-5}


def weight_regularized_mnist(
    *,
    d_in: int = 784,
    d_sae: int = 1568,
    tied: bool = True,
    penalty: AnyPenalty = "l1",
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

    Stated: pixels in [0, 1], d_sae, the loss and its strengths, Adam 1e-3, batch, 100 epochs
    of 60,000 images, seeds.

    Our choices (the paper does not say):

    - ``architecture``: regularized_standard, SAELens' ReLU SAE.
    - ``regularizers``: the L1 of activations is ``frequency_weighted_l1`` with beta 0, since
      SAELens' own is weighted by the decoder's norms. So ``frequency_weighted_l1.beta`` and
      ``frequency_weighted_l1.beta_warm_up_steps`` are 0, ``frequency_weighted_l1.decay`` is of
      no use, and ``frequency_weighted_l1.times_decoder_norm`` is off;
      ``frequency_weighted_l1.schedule`` constant.
    - ``weight_penalty.mode`` coupled, in the loss; ``weight_penalty.mask`` none;
      ``weight_penalty.schedule`` constant.
    - ``l1_coefficient``: 0, for the same reason.
    - ``initialization``: the paper's tied and untied starts. ``b_dec_init``
      geometric_median for tied, as in the public notebook, zero for untied;
      ``decoder_init_norm`` 1 for tied, as drawn for untied.
    - ``apply_b_dec_to_input``: SAELens' default, True. ``l1_warm_up_steps``, ``lp_norm``,
      ``max_norm_multiple``, ``mechanics``: none.
    - ``decoder_constraint``: unit_norm for tied, by projection.
    - ``normalize_activations``: none; pixels are in [0, 1].
    - ``lr_warm_up_steps`` and ``lr_decay_fraction``: 0.
    - ``model``, ``hook_name``, ``corpus``, ``context_size``, ``exclude_special_tokens``,
      ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``, ``disable_concat_sequences``,
      ``dead_feature_window``: of no use on images.

    Args:
        d_in: pixels.
        d_sae: latents.
        tied: start tied with unit-norm rows, or untied and free.
        penalty: ``none`` | ``l1`` | ``l2`` | ``frobenius``.
    """

    def make(widths: Widths) -> Fields:
        def scaled(value: float, degree: int) -> float:
            return sae_lens_coefficient(
                value, paper=_LOSS, degree=degree, d_in=widths.d_in
            )

        activations = FrequencyWeightedL1(
            coefficient=scaled(0.1, 1) / widths.d_sae,
            beta=0.0,
            beta_warm_up_steps=0,
            label="activation_l1",
        )
        reduction = "mean" if penalty == "l1" else "sum"
        weights = weight_penalty(
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

    unused = "of no use on images"
    return Preset(
        name="weight_regularized_mnist",
        paper=PAPER,
        architecture="regularized_standard",
        d_in=d_in,
        d_sae=d_sae,
        run=Run(
            model=None,
            hook_name=None,
            corpus=None,
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
            **STANDARD,
            **IMAGES,
            "architecture": "a ReLU SAE, as SAELens has it",
            "mechanics": "none is stated",
            "frequency_weighted_l1.beta": "0: a plain L1",
            "frequency_weighted_l1.beta_warm_up_steps": "0: beta is 0",
            "frequency_weighted_l1.decay": "of no use: beta is 0",
            "frequency_weighted_l1.times_decoder_norm": "off: a plain L1",
            "frequency_weighted_l1.schedule": CONSTANT,
            "weight_penalty.mode": "in the loss; the paper has no other",
            "weight_penalty.mask": "none; the paper has no mask",
            "weight_penalty.schedule": CONSTANT,
            "b_dec_init": "the public notebook's if tied; untied SAEs have no b_dec there",
            "decoder_init_norm": "rows of norm 1 if tied, as drawn if untied",
            "regularizers": "a plain L1 of activations is frequency_weighted_l1 with beta 0",
            "l1_coefficient": "SAELens' L1 is weighted by the decoder's norms",
            "initialization": "the paper's tied and untied starts",
            "decoder_constraint": "the paper renormalises without projection",
            "normalize_activations": "pixels are in [0, 1]",
            "lr_warm_up_steps": "not stated",
            "lr_decay_fraction": "not stated",
            "model": unused,
            "hook_name": unused,
            "corpus": unused,
            "dead_feature_window": unused,
        },
    )
