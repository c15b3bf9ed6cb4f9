from saereg_plugin.regularizers.acting import acts
from saereg_plugin.regularizers.base import RegularizerConfig
from saereg_plugin.regularizers.weight_penalty import WeightPenalty

__all__ = ["RegularizerConfig", "WeightPenalty", "acts"]
