"""Metrics of sparse autoencoders as pure functions on tensors."""

from saereg_plugin.metrics.consistency import (
    ShareClasses,
    latent_stability,
    pw_mcc,
    share_classes,
)
from saereg_plugin.metrics.geometry import (
    ALIVE_THRESHOLD,
    RowGeometry,
    alive_mask,
    dead_count,
    encoder_decoder_cosines,
    expected_abs_cosine,
    row_geometry,
    row_norms,
)
from saereg_plugin.metrics.matching import (
    SHARED_THRESHOLD,
    Matching,
    SharedLatents,
    hungarian,
    match_rows,
    shared_latents,
)
from saereg_plugin.metrics.similarity import (
    PAIRED_THRESHOLD,
    MaxCosine,
    Paired,
    cosine,
    cosine_blocks,
    fraction_paired,
    mean_max_cos,
    unit_rows,
)

__all__ = [
    "ALIVE_THRESHOLD",
    "PAIRED_THRESHOLD",
    "SHARED_THRESHOLD",
    "Matching",
    "MaxCosine",
    "Paired",
    "RowGeometry",
    "ShareClasses",
    "SharedLatents",
    "alive_mask",
    "cosine",
    "cosine_blocks",
    "dead_count",
    "encoder_decoder_cosines",
    "expected_abs_cosine",
    "fraction_paired",
    "hungarian",
    "latent_stability",
    "match_rows",
    "mean_max_cos",
    "pw_mcc",
    "row_geometry",
    "row_norms",
    "share_classes",
    "shared_latents",
    "unit_rows",
]
