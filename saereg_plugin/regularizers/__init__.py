from saereg_plugin.regularizers.base import RegularizerConfig
from saereg_plugin.regularizers.weight_penalty import WeightPenalty

__all__ = ["RegularizerConfig", "WeightPenalty"]
