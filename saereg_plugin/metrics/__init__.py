"""Metrics of sparse autoencoders as pure functions on tensors."""

from saereg_plugin.metrics.ablation import NORMAL_EFFECT as NORMAL_EFFECT
from saereg_plugin.metrics.ablation import ablation_sparsity as ablation_sparsity
from saereg_plugin.metrics.ablation import effect_sparsity as effect_sparsity
from saereg_plugin.metrics.assignment.certificate import Certificate as Certificate
from saereg_plugin.metrics.assignment.certificate import certify as certify
from saereg_plugin.metrics.attribution import ScoreTally as ScoreTally
from saereg_plugin.metrics.attribution import codes_of as codes_of
from saereg_plugin.metrics.attribution import cumulative_shares as cumulative_shares
from saereg_plugin.metrics.attribution import first_order_effects as first_order_effects
from saereg_plugin.metrics.attribution import next_token_losses as next_token_losses
from saereg_plugin.metrics.attribution import smallest_core as smallest_core
from saereg_plugin.metrics.attribution import token_scores as token_scores
from saereg_plugin.metrics.buffer import RowBuffer as RowBuffer
from saereg_plugin.metrics.codes import Codes as Codes
from saereg_plugin.metrics.codes import CodesBuffer as CodesBuffer
from saereg_plugin.metrics.matching import SHARED_THRESHOLD as SHARED_THRESHOLD
from saereg_plugin.metrics.matching import Matching as Matching
from saereg_plugin.metrics.matching import hungarian as hungarian
from saereg_plugin.metrics.matching import latent_stability as latent_stability
from saereg_plugin.metrics.matching import match_many as match_many
from saereg_plugin.metrics.matching import match_many_twice as match_many_twice
from saereg_plugin.metrics.matching import match_rows as match_rows
from saereg_plugin.metrics.matching import seen_from_b as seen_from_b
from saereg_plugin.metrics.matching import share_classes as share_classes
from saereg_plugin.metrics.matching import shared_mask as shared_mask
from saereg_plugin.metrics.matching import stable_mask as stable_mask
from saereg_plugin.metrics.matching import with_latent_ids as with_latent_ids
from saereg_plugin.metrics.monosemanticity import ScoreSums as ScoreSums
from saereg_plugin.metrics.monosemanticity import left_out_sums as left_out_sums
from saereg_plugin.metrics.monosemanticity import normalised as normalised
from saereg_plugin.metrics.monosemanticity import score_sums as score_sums
from saereg_plugin.metrics.monosemanticity import unit_embeddings as unit_embeddings
from saereg_plugin.metrics.purity import ClassTally as ClassTally
from saereg_plugin.metrics.purity import class_tally as class_tally
from saereg_plugin.metrics.purity import held_out_purity as held_out_purity
from saereg_plugin.metrics.purity import shuffled_labels as shuffled_labels
from saereg_plugin.metrics.reconstruction import (
    ReconstructionSums as ReconstructionSums,
)
from saereg_plugin.metrics.reconstruction import latent_directions as latent_directions
from saereg_plugin.metrics.reconstruction import (
    reconstruction_sums as reconstruction_sums,
)
from saereg_plugin.metrics.similarity import ALIVE_THRESHOLD as ALIVE_THRESHOLD
from saereg_plugin.metrics.similarity import PAIRED_THRESHOLD as PAIRED_THRESHOLD
from saereg_plugin.metrics.similarity import alive_mask as alive_mask
from saereg_plugin.metrics.similarity import cosine as cosine
from saereg_plugin.metrics.similarity import cosine_blocks as cosine_blocks
from saereg_plugin.metrics.similarity import dead_count as dead_count
from saereg_plugin.metrics.similarity import (
    encoder_decoder_cosines as encoder_decoder_cosines,
)
from saereg_plugin.metrics.similarity import expected_abs_cosine as expected_abs_cosine
from saereg_plugin.metrics.similarity import fraction_paired as fraction_paired
from saereg_plugin.metrics.similarity import mean_max_cos as mean_max_cos
from saereg_plugin.metrics.similarity import row_geometry as row_geometry
from saereg_plugin.metrics.similarity import row_norms as row_norms
from saereg_plugin.metrics.similarity import unit_rows as unit_rows
from saereg_plugin.metrics.subspaces import LeadingDirections as LeadingDirections
from saereg_plugin.metrics.subspaces import gaussian_rows as gaussian_rows
from saereg_plugin.metrics.subspaces import leading_directions as leading_directions
from saereg_plugin.metrics.subspaces import mixed_rows as mixed_rows
from saereg_plugin.metrics.subspaces import nearest_rows as nearest_rows
from saereg_plugin.metrics.subspaces import overlap_ranks as overlap_ranks
from saereg_plugin.metrics.subspaces import (
    principal_directions as principal_directions,
)
from saereg_plugin.metrics.subspaces import random_overlap as random_overlap
from saereg_plugin.metrics.subspaces import span_shares as span_shares
from saereg_plugin.metrics.subspaces import subspace_overlap as subspace_overlap
