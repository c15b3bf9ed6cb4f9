"""FreqSAE: an L1 that grows with how often a latent fires."""

from __future__ import annotations

from saereg_plugin.presets.base import (
    CONSTANT,
    STANDARD,
    SWEEP,
    Fields,
    PaperLoss,
    Preset,
    Run,
    Widths,
    sae_lens_coefficient,
)
from saereg_plugin.regularizers import FrequencyWeightedL1

LOSS = PaperLoss(error="sum", scale="unit_mean_square")
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
    - ``frequency_weighted_l1.times_decoder_norm`` off: rows have norm 1;
      ``frequency_weighted_l1.schedule`` constant, beside beta's warm-up.
    - Left as SAELens has them: ``initialization``, ``b_dec_init``, ``decoder_init_norm``,
      ``apply_b_dec_to_input``, ``max_norm_multiple``, ``l1_warm_up_steps``, ``lp_norm``, ``mechanics``.
    - ``normalize_activations``: SAELens' E||x|| = sqrt(d_in); lambda is converted.
    - ``d_in``: that of the model.
    - ``corpus``: the Pile (uncopyrighted).
    - ``lr_warm_up_steps`` 0, ``lr_decay_fraction`` 0, ``seeds`` 0, 1, 2.
    - ``exclude_special_tokens``, ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``,
      ``disable_concat_sequences``, ``dead_feature_window``: defaults of this package's sweeps.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        beta: how much a frequent latent's L1 grows; 0 is a plain L1.
        coefficient: the paper's lambda, in the paper's scale.
        beta_warm_up_steps: steps over which beta rises from 0.
    """

    def make(widths: Widths) -> Fields:
        scaled = sae_lens_coefficient(
            coefficient, paper=LOSS, degree=1, d_in=widths.d_in
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
            **SWEEP,
            **STANDARD,
            "mechanics": "none is stated",
            "frequency_weighted_l1.times_decoder_norm": "off: rows have norm 1",
            "frequency_weighted_l1.schedule": CONSTANT,
            "l1_coefficient": "0: the weighted L1 replaces SAELens' own",
            "normalize_activations": "SAELens' scale; lambda is converted",
            "d_in": "the model's",
            "corpus": "not stated",
            "lr_warm_up_steps": "not stated",
            "lr_decay_fraction": "not stated",
            "seeds": "not stated",
        },
    )
