"""VASAE, mutual features and OrtSAE: what is asked of the decoder's rows."""

from __future__ import annotations

from saereg_plugin.mechanics.schedules import Schedule
from saereg_plugin.presets.base import Fields, Preset, Run, Widths
from saereg_plugin.presets.conversion import PaperLoss, sae_lens_coefficient
from saereg_plugin.regularizers import MutualFeatures, Orthogonality, VocabularyAnchor
from saereg_plugin.regularizers.vocabulary_anchor import AnchorMode

_MEAN_ERROR = PaperLoss(error="mean", scale="as_trained")
_NOT_STATED = "not stated"
_SWEEP = "default of this package's sweeps"
_SWEEP_FIELDS = {
    "exclude_special_tokens": _SWEEP,
    "prepend_bos": _SWEEP,
    "buffer_tokens": _SWEEP,
    "mixing_fraction": _SWEEP,
    "dead_feature_window": _SWEEP,
    "context_size": _NOT_STATED,
    "lr": _NOT_STATED,
    "lr_warm_up_steps": _NOT_STATED,
    "lr_decay_fraction": _NOT_STATED,
    "seeds": _NOT_STATED,
    "tokens": _NOT_STATED,
    "batch_size": _NOT_STATED,
    "corpus": _NOT_STATED,
}


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

    Stated: model, k 32, d_sae the size of the vocabulary, lambda, no b_dec subtracted,
    activations unscaled.

    Our choices (the paper does not say):

    - ``hook_name``: layer 6 of GPT-2; the paper has several.
    - ``d_in``: that of the model.
    - ``decoder_constraint``: unit_norm; only directions are anchored.
    - ``vocabulary_anchor.mode``: nearest, of the paper's three.
    - ``vocabulary_anchor.refresh_every``: 50 steps between exact searches.
    - ``corpus``, ``tokens``, ``batch_size``, ``context_size``, ``lr``, ``lr_warm_up_steps``,
      ``lr_decay_fraction``, ``seeds``: not stated.
    - ``exclude_special_tokens``, ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``,
      ``dead_feature_window``: defaults of this package's sweeps.

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
        run=_run("gpt2", f"blocks.{layer}.hook_resid_post"),
        make=make,
        stated=(
            *("model", "d_sae", "k", "regularizers", "apply_b_dec_to_input"),
            *("normalize_activations", "vocabulary_anchor.coefficient"),
        ),
        chosen={
            **_SWEEP_FIELDS,
            "hook_name": "the paper has several layers",
            "d_in": "the model's",
            "decoder_constraint": "not stated; only directions are anchored",
            "vocabulary_anchor.mode": "one of the paper's three",
            "vocabulary_anchor.refresh_every": "exact search every 50 steps",
        },
    )


def mutual_feature(
    *, d_in: int = 768, d_sae: int = 12_288, k: int = 32, alpha: float = 1.0
) -> Preset:
    """
    SAEs side by side with alpha * (1 - MMCS) between their decoders (arXiv 2411.01220).

    One SAE's configuration. The SAEs must know each other: they are trained in one
    ``MultiSAETrainingRunner`` run, linked (docs: mutual features). The penalty does not
    depend on the scale of activations; ``alpha`` is under SAELens' summed error at
    E||x|| = sqrt(d_in).

    Stated: the penalty, its ramp over about 100 steps.

    Our choices (the paper does not say):

    - ``mutual_features.coefficient``: alpha 1.
    - ``k`` 32, ``d_in`` 768, ``d_sae`` 16 times d_in, ``model`` gpt2, ``hook_name`` layer 6.
    - ``decoder_constraint``: unit_norm. ``normalize_activations``: SAELens'
      E||x|| = sqrt(d_in).
    - ``corpus``, ``tokens``, ``batch_size``, ``context_size``, ``lr``, ``lr_warm_up_steps``,
      ``lr_decay_fraction``, ``seeds``: not stated.
    - ``exclude_special_tokens``, ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``,
      ``dead_feature_window``: defaults of this package's sweeps.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        k: active latents.
        alpha: weight of 1 - MMCS.
    """

    def make(_: Widths) -> Fields:
        penalty = MutualFeatures(
            coefficient=alpha, schedule=Schedule(warm_up_steps=100)
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
        run=_run("gpt2", "blocks.6.hook_resid_post"),
        make=make,
        stated=("regularizers", "mutual_features.schedule"),
        chosen={
            **_SWEEP_FIELDS,
            "mutual_features.coefficient": "alpha is not stated",
            "k": _NOT_STATED,
            "d_in": _NOT_STATED,
            "d_sae": _NOT_STATED,
            "model": _NOT_STATED,
            "hook_name": _NOT_STATED,
            "decoder_constraint": _NOT_STATED,
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
) -> Preset:
    """
    OrtSAE: gamma * mean of squared largest cosines within random chunks (arXiv 2509.22033).

    The penalty does not depend on the scale of activations; gamma is taken as it is under
    SAELens' summed error at E||x|| = sqrt(d_in).

    Stated: the penalty, gamma .25, chunks of about 8192 latents, every 5th step with 5 gamma
    as the cheaper form (``every=5``).

    Our choices (not stated in what we have of the paper):

    - ``architecture``: BatchTopK, with ``k`` 64.
    - ``model`` gemma-2-2b, ``hook_name`` layer 12, ``d_in`` the model's, ``d_sae`` 65,536.
    - ``orthogonality.reduction``: no conversion of gamma to another loss reduction.
    - ``decoder_constraint``: unit_norm. ``normalize_activations``: SAELens'
      E||x|| = sqrt(d_in).
    - ``corpus``, ``tokens``, ``batch_size``, ``context_size``, ``lr``, ``lr_warm_up_steps``,
      ``lr_decay_fraction``, ``seeds``: not stated.
    - ``exclude_special_tokens``, ``prepend_bos``, ``buffer_tokens``, ``mixing_fraction``,
      ``dead_feature_window``: defaults of this package's sweeps.

    Args:
        d_in: width of the activations.
        d_sae: latents.
        k: mean number of active latents.
        gamma: weight of the penalty.
        every: apply it in every n-th step only, n times as strong.
    """

    def make(_: Widths) -> Fields:
        penalty = Orthogonality(coefficient=gamma, chunk_size=8192, every=every)
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
        run=_run("gemma-2-2b", "blocks.12.hook_resid_post"),
        make=make,
        stated=(
            *("regularizers", "orthogonality.coefficient"),
            *("orthogonality.chunk_size", "orthogonality.every"),
        ),
        chosen={
            **_SWEEP_FIELDS,
            "architecture": _NOT_STATED,
            "k": _NOT_STATED,
            "model": _NOT_STATED,
            "hook_name": _NOT_STATED,
            "d_in": _NOT_STATED,
            "d_sae": _NOT_STATED,
            "orthogonality.reduction": "gamma is not converted",
            "decoder_constraint": _NOT_STATED,
            "normalize_activations": "SAELens' E||x|| = sqrt(d_in)",
        },
    )


def _run(model: str, hook_name: str) -> Run:
    return Run(
        model=model,
        hook_name=hook_name,
        corpus="monology/pile-uncopyrighted",
        tokens=50_000_000,
        batch_size=2048,
        lr=3e-4,
    )
