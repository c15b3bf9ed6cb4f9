"""Presets of penalties on decoder rows: VASAE, mutual features and OrtSAE."""

from __future__ import annotations

from saereg_plugin.config import Schedule
from saereg_plugin.presets.base import (
    NO_SCHEDULE,
    SAE_LENS_SCALE,
    UNIT_NORM,
    Fields,
    PaperLoss,
    Preset,
    open_run,
    sae_lens_coefficient,
)
from saereg_plugin.regularizers.mutual_features import MutualFeatures
from saereg_plugin.regularizers.orthogonality import Orthogonality
from saereg_plugin.regularizers.vocabulary_anchor import AnchorMode, VocabularyAnchor

_MEAN_ERROR = PaperLoss(error="mean", scale="as_trained")
SAE_LENS_LOSS = PaperLoss(error="sum", scale="as_trained")
"""SAELens' own: a coefficient is taken as it is."""


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

    Args:
        d_in: width of the activations.
        d_sae: latents; the paper takes the size of the vocabulary.
        coefficient: the paper's lambda, in the paper's scale.
        mode: ``nearest`` | ``logsumexp`` | ``softmax``, the paper's three.
        layer: of GPT-2.
    """

    def make(d_in: int, _: int) -> Fields:
        scaled = sae_lens_coefficient(
            coefficient, paper=_MEAN_ERROR, degree=0, d_in=d_in
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
            "hook_name": "the paper has several layers",
            "d_in": "the model's",
            "decoder_constraint": "not stated; only directions are anchored",
            "vocabulary_anchor.mode": "of the paper's three",
            "vocabulary_anchor.refresh_every": "steps between exact searches",
            "vocabulary_anchor.schedule": NO_SCHEDULE,
            "vocabulary_anchor.temperature": "of no use in mode nearest",
        },
    )


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

    Args:
        d_in: width of the activations.
        d_sae: latents; 16 times d_in by default.
        k: active latents.
        alpha: weight of 1 - MMCS, in the scale of ``paper_loss``.
        paper_loss: the loss that alpha belongs to; by default SAELens' own.
    """

    def make(d_in: int, _: int) -> Fields:
        scaled = sae_lens_coefficient(alpha, paper=paper_loss, degree=0, d_in=d_in)
        penalty = MutualFeatures(
            coefficient=scaled, schedule=Schedule(warm_up_steps=100)
        )
        return {"k": k, "regularizers": [penalty.to_dict()], **UNIT_NORM}

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
            "normalize_activations": SAE_LENS_SCALE,
            "mutual_features.coefficient": "alpha and the scale of its loss are not stated",
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
    E||x||^2 = 1, or under an error averaged over d_in. The paper's loss is not known here,
    so by default gamma is taken as it is, in SAELens' loss. With
    ``paper_loss=PaperLoss(scale="unit_mean_square")`` it is 576: the reading to take if the
    default leaves cosines unchanged. The paper's cheaper form is ``every=5``.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        k: mean number of active latents.
        gamma: weight of the penalty, in the scale of ``paper_loss``.
        every: apply it in every n-th step only, n times as strong.
        paper_loss: the loss that gamma belongs to; by default SAELens' own.
    """

    def make(d_in: int, _: int) -> Fields:
        scaled = sae_lens_coefficient(gamma, paper=paper_loss, degree=0, d_in=d_in)
        penalty = Orthogonality(coefficient=scaled, chunk_size=8192, every=every)
        return {"k": k, "regularizers": [penalty.to_dict()], **UNIT_NORM}

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
            "normalize_activations": SAE_LENS_SCALE,
            "orthogonality.coefficient": ".25 is stated, the scale of its loss is not",
            "orthogonality.similarity": "signed; the formula as we have it",
            "orthogonality.schedule": NO_SCHEDULE,
        },
    )
