"""Regularisers of SAEs."""

from saereg_plugin.regularizers.base import RegularizerConfig
from saereg_plugin.regularizers.frequency_weighted_l1 import FrequencyWeightedL1
from saereg_plugin.regularizers.l1_l2_ratio import L1L2Ratio
from saereg_plugin.regularizers.mutual_features import MutualFeatures
from saereg_plugin.regularizers.off_support import OffSupportL1
from saereg_plugin.regularizers.orthogonality import Orthogonality
from saereg_plugin.regularizers.temporal.difference import TemporalDifference
from saereg_plugin.regularizers.temporal.order import OrderSettings
from saereg_plugin.regularizers.vocabulary_anchor import VocabularyAnchor
from saereg_plugin.regularizers.weight_penalty import WeightPenalty

__all__ = [
    "FrequencyWeightedL1",
    "L1L2Ratio",
    "MutualFeatures",
    "OffSupportL1",
    "OrderSettings",
    "Orthogonality",
    "RegularizerConfig",
    "TemporalDifference",
    "VocabularyAnchor",
    "WeightPenalty",
]
