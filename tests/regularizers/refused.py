"""Combinations that are refused when the configuration is made, as docs/methods/matrix.md lists them."""

from __future__ import annotations

from typing import Any

REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "`k_annealing` on standard, jumprelu, gated",
        "jumprelu",
        {"mechanics": [{"name": "k_annealing"}]},
        "has no k to anneal",
    ),
    (
        "`resampling` with `threshold` of k / d_sae or more",
        "topk",
        {"k": 4, "d_sae": 1024, "mechanics": [{"name": "resampling"}]},
        "threshold is 0.005, but with k=4 of d_sae=1024",
    ),
    (
        "`resampling` with `norm` other than 1 and a unit-norm decoder",
        "topk",
        {
            "mechanics": [{"name": "resampling", "norm": 0.1}],
            "decoder_constraint": "unit_norm",
        },
        "keeps rows at norm 1",
    ),
    (
        "`weight_decay` with `target` `decoder` or `both` and a unit-norm decoder",
        "topk",
        {
            "mechanics": [{"name": "weight_decay", "target": "both"}],
            "decoder_constraint": "unit_norm",
        },
        "does nothing to a decoder of unit-norm rows",
    ),
    (
        "decoupled `weight_penalty` (l2, frobenius) with `target` `decoder` or `both` and a unit-norm "
        "decoder",
        "topk",
        {
            "regularizers": [{"name": "weight_penalty", "mode": "decoupled"}],
            "decoder_constraint": "unit_norm",
        },
        "does nothing to a decoder of unit-norm rows",
    ),
    (
        "`frequency_weighted_l1` with SAELens' own L1 (standard)",
        "standard",
        {"regularizers": [{"name": "frequency_weighted_l1"}], "l1_coefficient": 1.0},
        "charged twice. Set l1_coefficient=0",
    ),
    (
        "`frequency_weighted_l1` with `times_decoder_norm` and a unit-norm decoder or "
        "`rescale_acts_by_decoder_norm`",
        "topk",
        {
            "regularizers": [
                {"name": "frequency_weighted_l1", "times_decoder_norm": True}
            ]
        },
        "Set times_decoder_norm=False",
    ),
    (
        "`temporal_difference` with `max_norm_multiple`",
        "topk",
        {"regularizers": [{"name": "temporal_difference"}], "max_norm_multiple": 10.0},
        "Set max_norm_multiple=None",
    ),
    (
        "`temporal_difference` twice",
        "topk",
        {
            "regularizers": [
                {"name": "temporal_difference"},
                {"name": "temporal_difference", "label": "again"},
            ]
        },
        "is given twice",
    ),
    (
        '`off_support_l1`, `l1_l2_ratio` with `sparse_step="always"`',
        "topk",
        {"regularizers": [{"name": "off_support_l1"}], "sparse_step": "always"},
        "needs the pre-activations of all latents",
    ),
    (
        "a mechanic twice",
        "topk",
        {"mechanics": [{"name": "weight_decay"}, {"name": "weight_decay"}]},
        "is given 2 times; expected once",
    ),
    (
        "a unit-norm decoder with `covariance_whitening`",
        "topk",
        {
            "decoder_constraint": "unit_norm",
            "normalize_activations": "covariance_whitening",
        },
        "undoing the whitening changes the norms",
    ),
    (
        "a unit-norm decoder with `rescale_acts_by_decoder_norm=True`",
        "topk",
        {"decoder_constraint": "unit_norm", "rescale_acts_by_decoder_norm": True},
        "rescale_acts_by_decoder_norm=True contradicts",
    ),
    (
        "a unit-norm decoder with `decoder_init_norm` other than 1",
        "topk",
        {"decoder_constraint": "unit_norm", "decoder_init_norm": 0.1},
        "decoder_init_norm=0.1 contradicts",
    ),
    (
        "`auxk_scaling` other than `sae_lens` with `layer_norm` or `constant_norm_rescale`",
        "topk",
        {"auxk_scaling": "openai", "normalize_activations": "layer_norm"},
        "for which the auxiliary loss is not defined",
    ),
    (
        '`sparse_step="always"` with `layer_norm` or `constant_norm_rescale`',
        "topk",
        {"sparse_step": "always", "normalize_activations": "constant_norm_rescale"},
        "acts inside the step",
    ),
]
"""First cell of the page's table, architecture, fields, and part of the message."""
