"""Combinations that are refused when the configuration is made, as docs/methods/matrix.md lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refused:
    """A combination that is refused, and what makes it possible."""

    row: str
    """First cell of the page's table."""
    fields: dict[str, Any]
    message: str
    """Part of the error's."""
    changes: tuple[dict[str, Any], ...]
    """Fields (or ``architecture``) of which each set by itself lifts the refusal."""
    architecture: str = "topk"

    @property
    def allowed(self) -> list[tuple[str, dict[str, Any]]]:
        """Architecture and fields of the nearest combinations that are not refused."""
        wholes = [
            {"architecture": self.architecture, **self.fields, **change}
            for change in self.changes
        ]
        return [(whole.pop("architecture"), whole) for whole in wholes]


UNIT = {"decoder_constraint": "unit_norm"}
FREE = {"decoder_constraint": "none"}
SCALED = {"normalize_activations": "expected_average_only_in"}
WHITENED = {"normalize_activations": "covariance_whitening"}
SCALED_ENCODER = {"encoder_scale": "unit_reconstructions"}
PLAIN: dict[str, Any] = {"regularizers": [{"name": "weight_penalty"}]}


def mechanic(name: str, **settings: Any) -> dict[str, Any]:
    return {"mechanics": [{"name": name, **settings}]}


def regularizer(name: str, **settings: Any) -> dict[str, Any]:
    return {"regularizers": [{"name": name, **settings}]}


def regularizers(*names: str) -> dict[str, Any]:
    return {"regularizers": [{"name": name} for name in names]}


REFUSED = [
    Refused(
        "`k_annealing` on standard, jumprelu, gated",
        mechanic("k_annealing"),
        "has no k to anneal",
        (
            {"architecture": "topk"},
            {"architecture": "batchtopk"},
            {"architecture": "matryoshka_batchtopk"},
            mechanic("weight_decay"),
        ),
        architecture="jumprelu",
    ),
    Refused(
        "`resampling` with `threshold` of k / d_sae or more",
        {"k": 4, "d_sae": 1024, **mechanic("resampling")},
        "threshold is 0.005, but with k=4 of d_sae=1024",
        ({"k": 8}, {"d_sae": 512}, mechanic("resampling", threshold=0.001)),
    ),
    Refused(
        "`frozen_core` with `resampling`",
        {
            "mechanics": [
                *mechanic("frozen_core", size=2)["mechanics"],
                *mechanic("resampling", threshold=0.001)["mechanics"],
            ]
        },
        "would leave dead latents of the core half changed",
        (
            mechanic("frozen_core", size=2),
            mechanic("resampling", threshold=0.001),
        ),
    ),
    Refused(
        "`frozen_core` with `size` above d_sae",
        mechanic("frozen_core", size=10_000),
        "frozen_core: size is 10000",
        (mechanic("frozen_core", size=2), mechanic("frozen_core", size=1)),
    ),
    Refused(
        "`resampling` with `norm` other than 1 and a unit-norm decoder",
        {**mechanic("resampling", norm=0.1), **UNIT},
        "keeps rows at norm 1",
        (mechanic("resampling"), mechanic("resampling", norm=1.0), FREE),
    ),
    Refused(
        "`weight_decay` with `target` `decoder` or `both` and a unit-norm decoder",
        {**mechanic("weight_decay", target="both"), **UNIT},
        "does nothing to a decoder of unit-norm rows",
        (
            mechanic("weight_decay", target="encoder"),
            mechanic("weight_decay", target="all"),
            FREE,
        ),
    ),
    *(
        Refused(
            "decoupled `weight_penalty` (l2, frobenius) with `target` `decoder` or `both` and a "
            "unit-norm decoder",
            {
                **regularizer(
                    "weight_penalty", mode="decoupled", norm=norm, target=target
                ),
                **UNIT,
            },
            "does nothing to a decoder of unit-norm rows",
            (
                regularizer(
                    "weight_penalty", mode="decoupled", norm=norm, target="encoder"
                ),
                regularizer(
                    "weight_penalty", mode="decoupled", norm="l1", target=target
                ),
                FREE,
            ),
        )
        for norm in ("l2", "frobenius")
        for target in ("decoder", "both")
    ),
    *(
        Refused(
            "coupled `weight_penalty` (l2, frobenius) with `target` `decoder` and a unit-norm "
            "decoder",
            {**regularizer("weight_penalty", norm=norm, target="decoder"), **UNIT},
            f"a coupled {norm} penalty with target='decoder' does nothing to a decoder",
            (
                regularizer("weight_penalty", norm=norm, target="encoder"),
                regularizer("weight_penalty", norm=norm, target="both"),
                regularizer("weight_penalty", norm="l1", target="decoder"),
                FREE,
            ),
        )
        for norm in ("l2", "frobenius")
    ),
    Refused(
        "`frequency_weighted_l1` with SAELens' own L1 (standard)",
        {**regularizer("frequency_weighted_l1"), "l1_coefficient": 1.0},
        "charged twice. Set l1_coefficient=0",
        ({"l1_coefficient": 0.0}, {"architecture": "gated"}, PLAIN),
        architecture="standard",
    ),
    Refused(
        "`frequency_weighted_l1` with `times_decoder_norm` and a unit-norm decoder or "
        "`rescale_acts_by_decoder_norm`",
        regularizer("frequency_weighted_l1", times_decoder_norm=True),
        "Set times_decoder_norm=False",
        (
            regularizer("frequency_weighted_l1"),
            {"rescale_acts_by_decoder_norm": False},
            {"architecture": "standard"},
        ),
    ),
    Refused(
        "`frequency_weighted_l1` with `times_decoder_norm` and a unit-norm decoder or "
        "`rescale_acts_by_decoder_norm`",
        {**regularizer("frequency_weighted_l1", times_decoder_norm=True), **UNIT},
        "Set times_decoder_norm=False",
        (regularizer("frequency_weighted_l1"), FREE),
        architecture="standard",
    ),
    Refused(
        "`temporal_difference` with `max_norm_multiple`",
        {**regularizer("temporal_difference"), "max_norm_multiple": 10.0},
        "Set max_norm_multiple=None",
        ({"max_norm_multiple": None}, PLAIN),
    ),
    Refused(
        "`temporal_difference` twice",
        {
            "regularizers": [
                {"name": "temporal_difference"},
                {"name": "temporal_difference", "label": "again"},
            ]
        },
        "temporal_difference is given twice",
        (
            regularizer("temporal_difference"),
            regularizers("temporal_difference", "weight_penalty"),
        ),
    ),
    Refused(
        "`vocabulary_anchor` with `covariance_whitening`",
        {**regularizer("vocabulary_anchor"), **WHITENED},
        "would turn each row away from its token",
        (
            SCALED,
            {"normalize_activations": "none"},
            {"normalize_activations": "layer_norm"},
            regularizer("orthogonality"),
            regularizer("mutual_features"),
        ),
    ),
    Refused(
        "`vocabulary_anchor` twice",
        {
            "regularizers": [
                {"name": "vocabulary_anchor"},
                {"name": "vocabulary_anchor", "label": "again", "embeddings": "other"},
            ]
        },
        "vocabulary_anchor is given twice",
        (
            regularizer("vocabulary_anchor"),
            regularizers("vocabulary_anchor", "orthogonality"),
        ),
    ),
    Refused(
        '`off_support_l1`, `l1_l2_ratio` with `sparse_step="always"`',
        {**regularizer("off_support_l1"), "sparse_step": "always"},
        "needs the pre-activations of all latents",
        ({"sparse_step": "auto"}, {"sparse_step": "never"}, PLAIN),
    ),
    Refused(
        "`multi_topk` with `layer_norm` or `constant_norm_rescale`",
        {**regularizer("multi_topk"), "normalize_activations": "layer_norm"},
        "multi_topk cannot be used with normalize_activations='layer_norm'",
        (SCALED, WHITENED, regularizer("weight_penalty")),
    ),
    Refused(
        '`encoder_scale="unit_reconstructions"` on jumprelu',
        SCALED_ENCODER,
        "whose thresholds do not scale with the encoder",
        (
            {"architecture": "topk"},
            {"architecture": "gated"},
            {"encoder_scale": "as_drawn"},
        ),
        architecture="jumprelu",
    ),
    Refused(
        '`encoder_scale="unit_reconstructions"` with `layer_norm`',
        {**SCALED_ENCODER, "normalize_activations": "layer_norm"},
        "which adds a mean to reconstructions",
        (
            SCALED,
            {"normalize_activations": "constant_norm_rescale"},
            {"encoder_scale": "as_drawn"},
        ),
    ),
    Refused(
        "a mechanic twice",
        {"mechanics": [{"name": "weight_decay"}, {"name": "weight_decay"}]},
        "is given 2 times; expected once",
        (
            mechanic("weight_decay"),
            {"mechanics": [{"name": "weight_decay"}, {"name": "gradient_clipping"}]},
        ),
    ),
    Refused(
        "a unit-norm decoder with `covariance_whitening`",
        {**UNIT, **WHITENED},
        "undoing the whitening changes the norms",
        (FREE, SCALED),
    ),
    Refused(
        "a unit-norm decoder with `rescale_acts_by_decoder_norm=True`",
        {**UNIT, "rescale_acts_by_decoder_norm": True},
        "rescale_acts_by_decoder_norm=True contradicts",
        (
            FREE,
            {"rescale_acts_by_decoder_norm": False},
            {"rescale_acts_by_decoder_norm": "auto"},
        ),
    ),
    Refused(
        "a unit-norm decoder with `decoder_init_norm` other than 1",
        {**UNIT, "decoder_init_norm": 0.1},
        "decoder_init_norm=0.1 contradicts",
        (FREE, {"decoder_init_norm": 1.0}, {"decoder_init_norm": "auto"}),
    ),
    Refused(
        "`auxk_scaling` other than `sae_lens` with `layer_norm` or `constant_norm_rescale`",
        {"auxk_scaling": "openai", "normalize_activations": "layer_norm"},
        "for which the auxiliary loss is not defined",
        ({"auxk_scaling": "sae_lens"}, SCALED, WHITENED),
    ),
    Refused(
        '`sparse_step="screened"` with weights of another type than float32',
        {"sparse_step": "screened", "dtype": "float64"},
        "it compares float32 with bfloat16, and dtype is",
        ({"sparse_step": "auto"}, {"sparse_step": "always"}, {"dtype": "float32"}),
    ),
    Refused(
        '`sparse_step="always"` with `layer_norm` or `constant_norm_rescale`',
        {"sparse_step": "always", "normalize_activations": "constant_norm_rescale"},
        "acts inside the step",
        ({"sparse_step": "auto"}, SCALED, WHITENED),
    ),
]
