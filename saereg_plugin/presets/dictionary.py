"""Mutual features and OrtSAE: what is asked of the decoder's rows."""

from __future__ import annotations

from saereg_plugin.mechanics.schedules import Schedule
from saereg_plugin.presets.base import (
    CONSTANT,
    NOT_STATED,
    OPEN_RUN,
    TOPK,
    Fields,
    PaperLoss,
    Preset,
    Widths,
    open_run,
    sae_lens_coefficient,
)
from saereg_plugin.regularizers import MutualFeatures, Orthogonality

SAE_LENS_LOSS = PaperLoss(error="sum", scale="as_trained")
"""SAELens' own: a coefficient is taken as it is."""


def mutual_feature(
    *,
    d_in: int = 768,
    d_sae: int = 12_288,
    k: int = 32,
    alpha: float = 1.0,
    paper_loss: PaperLoss = SAE_LENS_LOSS,
) -> Preset:
    """
    SAEs side by side with alpha * (1 - MMCS) between their decoders (arXiv 2411.01220).

    One SAE's configuration. The SAEs must know each other: they are trained in one
    ``MultiSAETrainingRunner`` run, linked (docs: mutual features). A cosine does not grow
    with activations, and the error does: the same alpha is d_in times (768) as weak under
    SAELens' summed error at E||x|| = sqrt(d_in) as it is at E||x||^2 = 1, or under an error
    averaged over d_in. The paper's alpha and loss are not known here, so by default alpha is
    taken as it is, in SAELens' loss; ``paper_loss`` converts it.

    Stated: the penalty, its ramp over about 100 steps.

    Our choices (the paper does not say):

    - ``mutual_features.coefficient``: alpha 1, not converted (see above).
    - ``mutual_features.every``: every step.
    - ``architecture``: regularized_topk, SAELens' TopK.
    - Left as SAELens has them: ``initialization``, ``b_dec_init``, ``decoder_init_norm``,
      ``apply_b_dec_to_input``, ``max_norm_multiple``, ``mechanics``,
      ``rescale_acts_by_decoder_norm``, ``aux_loss_coefficient``, ``auxk_scaling``.
    - ``k`` 32, ``d_in`` 768, ``d_sae`` 16 times d_in, ``model`` gpt2, ``hook_name`` layer 6.
    - ``decoder_constraint``: unit_norm. ``normalize_activations``: SAELens'
      E||x|| = sqrt(d_in).
    - ``corpus``, ``tokens``, ``batch_size``, ``context_size``, ``lr``, ``lr_warm_up_steps``,
      ``lr_decay_fraction``, ``seeds``: not stated.
    - ``exclude_special_tokens``, ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``,
      ``disable_concat_sequences``, ``dead_feature_window``: defaults of this package's sweeps.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        k: active latents.
        alpha: weight of 1 - MMCS, in the scale of ``paper_loss``.
        paper_loss: the loss that alpha belongs to; by default SAELens' own.
    """

    def make(widths: Widths) -> Fields:
        scaled = sae_lens_coefficient(
            alpha, paper=paper_loss, degree=0, d_in=widths.d_in
        )
        penalty = MutualFeatures(
            coefficient=scaled, schedule=Schedule(warm_up_steps=100)
        )
        return {
            "k": k,
            "regularizers": [penalty.to_dict()],
            "decoder_constraint": "unit_norm",
            "normalize_activations": "expected_average_only_in",
        }

    return Preset(
        name="mutual_feature",
        paper="2411.01220",
        architecture="regularized_topk",
        d_in=d_in,
        d_sae=d_sae,
        run=open_run("gpt2", "blocks.6.hook_resid_post"),
        make=make,
        stated=("regularizers", "mutual_features.schedule"),
        chosen={
            **OPEN_RUN,
            **TOPK,
            "architecture": NOT_STATED,
            "mutual_features.coefficient": "alpha and the scale of its loss are not stated",
            "mutual_features.every": "every step",
            "k": NOT_STATED,
            "d_in": NOT_STATED,
            "d_sae": NOT_STATED,
            "model": NOT_STATED,
            "hook_name": NOT_STATED,
            "decoder_constraint": NOT_STATED,
            "normalize_activations": "SAELens' E||x|| = sqrt(d_in)",
        },
    )


def ort_sae(
    *,
    d_in: int = 2304,
    d_sae: int = 65_536,
    k: int = 64,
    gamma: float = 0.25,
    every: int = 1,
    paper_loss: PaperLoss = SAE_LENS_LOSS,
) -> Preset:
    """
    OrtSAE: gamma * mean of squared largest cosines within random chunks (arXiv 2509.22033).

    A cosine does not grow with activations, and the error does: gamma .25 is d_in times
    (2304) as weak under SAELens' summed error at E||x|| = sqrt(d_in) as it is at
    E||x||^2 = 1, or under an error averaged over d_in. Which of them the paper's loss is, is
    not known here, so by default gamma is taken as it is, in SAELens' loss. With
    ``paper_loss=PaperLoss(scale="unit_mean_square")`` it is 576: the reading to take if the
    default leaves cosines unchanged.

    Stated: the penalty, gamma's number .25, chunks of about 8192 latents, every 5th step with 5 gamma
    as the cheaper form (``every=5``).

    Our choices (not stated in what we have of the paper):

    - ``architecture``: BatchTopK, with ``k`` 64.
    - ``model`` gemma-2-2b, ``hook_name`` layer 12, ``d_in`` the model's, ``d_sae`` 65,536.
    - ``orthogonality.coefficient``: that gamma needs no conversion (see above).
    - ``orthogonality.similarity`` signed, ``orthogonality.schedule`` constant.
    - ``topk_threshold_lr``: SAELens' default.
    - Left as SAELens has them: ``initialization``, ``b_dec_init``, ``decoder_init_norm``,
      ``apply_b_dec_to_input``, ``max_norm_multiple``, ``mechanics``,
      ``rescale_acts_by_decoder_norm``, ``aux_loss_coefficient``, ``auxk_scaling``.
    - ``decoder_constraint``: unit_norm. ``normalize_activations``: SAELens'
      E||x|| = sqrt(d_in).
    - ``corpus``, ``tokens``, ``batch_size``, ``context_size``, ``lr``, ``lr_warm_up_steps``,
      ``lr_decay_fraction``, ``seeds``: not stated.
    - ``exclude_special_tokens``, ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``,
      ``disable_concat_sequences``, ``dead_feature_window``: defaults of this package's sweeps.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        k: mean number of active latents.
        gamma: weight of the penalty, in the scale of ``paper_loss``.
        every: apply it in every n-th step only, n times as strong.
        paper_loss: the loss that gamma belongs to; by default SAELens' own.
    """

    def make(widths: Widths) -> Fields:
        scaled = sae_lens_coefficient(
            gamma, paper=paper_loss, degree=0, d_in=widths.d_in
        )
        penalty = Orthogonality(coefficient=scaled, chunk_size=8192, every=every)
        return {
            "k": k,
            "regularizers": [penalty.to_dict()],
            "decoder_constraint": "unit_norm",
            "normalize_activations": "expected_average_only_in",
        }

    return Preset(
        name="ort_sae",
        paper="2509.22033",
        architecture="regularized_batchtopk",
        d_in=d_in,
        d_sae=d_sae,
        run=open_run("gemma-2-2b", "blocks.12.hook_resid_post"),
        make=make,
        stated=("regularizers", "orthogonality.chunk_size", "orthogonality.every"),
        chosen={
            **OPEN_RUN,
            **TOPK,
            "architecture": NOT_STATED,
            "k": NOT_STATED,
            "model": NOT_STATED,
            "hook_name": NOT_STATED,
            "d_in": NOT_STATED,
            "d_sae": NOT_STATED,
            "orthogonality.coefficient": ".25 is stated, the scale of its loss is not",
            "orthogonality.similarity": "signed; the formula as we have it",
            "orthogonality.schedule": CONSTANT,
            "topk_threshold_lr": "not stated; SAELens' default",
            "decoder_constraint": NOT_STATED,
            "normalize_activations": "SAELens' E||x|| = sqrt(d_in)",
        },
    )
