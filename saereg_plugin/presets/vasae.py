"""VASAE: decoder rows pulled to the model's token embeddings (arXiv 2606.27941)."""

from __future__ import annotations

from saereg_plugin.presets.base import (
    CONSTANT,
    OPEN_RUN,
    TOPK,
    Fields,
    PaperLoss,
    Preset,
    Widths,
    open_run,
    sae_lens_coefficient,
    without,
)
from saereg_plugin.regularizers import VocabularyAnchor
from saereg_plugin.regularizers.vocabulary_anchor import AnchorMode

_MEAN_ERROR = PaperLoss(error="mean", scale="as_trained")


def vasae(
    *,
    d_in: int = 768,
    d_sae: int = 50_257,
    coefficient: float = 1e-4,
    mode: AnchorMode = "nearest",
    layer: int = 6,
) -> Preset:
    """
    VASAE: - lambda * mean_i max_j cos(dec_i, e_j), e_j the token embeddings (arXiv 2606.27941).

    The paper's squared error is averaged over d_in; SAELens sums it, so lambda is times
    d_in: 1e-4 becomes .0768 on GPT-2. For Llama the paper takes 5e-3: pass
    ``coefficient=5e-3`` with that model's d_in and vocabulary size, and ``model`` and
    ``hook_name`` to ``sweep_fields``.

    Stated: model, the ten nearest tokens of two of the modes, k 32, d_sae the size of the vocabulary, lambda, no b_dec subtracted,
    activations unscaled.

    Our choices (the paper does not say):

    - ``hook_name``: layer 6 of GPT-2; the paper has several.
    - ``d_in``: that of the model.
    - ``decoder_constraint``: unit_norm; only directions are anchored.
    - ``vocabulary_anchor.mode``: nearest, of the paper's three.
    - ``vocabulary_anchor.refresh_every``: 50 steps between exact searches;
      ``vocabulary_anchor.search_dtype``: float32.
    - ``vocabulary_anchor.every`` 1, ``vocabulary_anchor.schedule`` constant,
      ``vocabulary_anchor.temperature`` 1 (logsumexp and softmax only).
    - ``architecture``: regularized_topk, SAELens' TopK.
    - Left as SAELens has them: ``initialization``, ``b_dec_init``, ``decoder_init_norm``,
      ``max_norm_multiple``, ``mechanics``,
      ``rescale_acts_by_decoder_norm``, ``aux_loss_coefficient``, ``auxk_scaling``.
    - ``corpus``, ``tokens``, ``batch_size``, ``context_size``, ``lr``, ``lr_warm_up_steps``,
      ``lr_decay_fraction``, ``seeds``: not stated.
    - ``exclude_special_tokens``, ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``,
      ``disable_concat_sequences``, ``dead_feature_window``: defaults of this package's sweeps.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        coefficient: the paper's lambda, in the paper's scale.
        mode: ``nearest`` | ``logsumexp`` | ``softmax``.
        layer: of GPT-2.
    """

    def make(widths: Widths) -> Fields:
        scaled = sae_lens_coefficient(
            coefficient, paper=_MEAN_ERROR, degree=0, d_in=widths.d_in
        )
        return {
            "k": 32,
            "regularizers": [VocabularyAnchor(coefficient=scaled, mode=mode).to_dict()],
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "decoder_constraint": "unit_norm",
        }

    return Preset(
        name="vasae",
        paper="2606.27941",
        architecture="regularized_topk",
        d_in=d_in,
        d_sae=d_sae,
        run=open_run("gpt2", f"blocks.{layer}.hook_resid_post"),
        make=make,
        stated=(
            *("model", "d_sae", "k", "regularizers", "apply_b_dec_to_input"),
            *("normalize_activations", "vocabulary_anchor.coefficient"),
            "vocabulary_anchor.top",
        ),
        chosen={
            **OPEN_RUN,
            **without(TOPK, "apply_b_dec_to_input"),
            "architecture": "TopK as SAELens has it",
            "hook_name": "the paper has several layers",
            "d_in": "the model's",
            "decoder_constraint": "not stated; only directions are anchored",
            "vocabulary_anchor.mode": "one of the paper's three",
            "vocabulary_anchor.refresh_every": "exact search every 50 steps",
            "vocabulary_anchor.search_dtype": "float32",
            "vocabulary_anchor.every": "every step",
            "vocabulary_anchor.schedule": CONSTANT,
            "vocabulary_anchor.temperature": "1; of no use in mode nearest",
        },
    )
