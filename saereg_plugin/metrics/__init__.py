"""Metrics of sparse autoencoders as pure functions on tensors."""

from saereg_plugin.metrics.assignment.certificate import Certificate, certify
from saereg_plugin.metrics.consistency import (
    latent_stability,
    share_classes,
    shared_mask,
    stable_mask,
)
from saereg_plugin.metrics.geometry import (
    ALIVE_THRESHOLD,
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
    hungarian,
    match_many,
    match_many_twice,
    match_rows,
    seen_from_b,
    with_latent_ids,
)
from saereg_plugin.metrics.similarity import (
    PAIRED_THRESHOLD,
    cosine,
    cosine_blocks,
    fraction_paired,
    mean_max_cos,
    unit_rows,
)
from saereg_plugin.metrics.subspaces import (
    leading_directions,
    overlap_ranks,
    random_overlap,
    subspace_overlap,
)

__all__ = [
    "ALIVE_THRESHOLD",
    "PAIRED_THRESHOLD",
    "SHARED_THRESHOLD",
    "Certificate",
    "Matching",
    "alive_mask",
    "certify",
    "cosine",
    "cosine_blocks",
    "dead_count",
    "encoder_decoder_cosines",
    "expected_abs_cosine",
    "fraction_paired",
    "hungarian",
    "latent_stability",
    "leading_directions",
    "match_many",
    "match_many_twice",
    "match_rows",
    "mean_max_cos",
    "overlap_ranks",
    "random_overlap",
    "row_geometry",
    "row_norms",
    "seen_from_b",
    "share_classes",
    "shared_mask",
    "stable_mask",
    "subspace_overlap",
    "unit_rows",
    "with_latent_ids",
]
