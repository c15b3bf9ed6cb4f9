"""Training mechanics of SAEs."""

from saereg_plugin.mechanics.base import MechanicConfig
from saereg_plugin.mechanics.gradient_clipping import GradientClipping
from saereg_plugin.mechanics.k_annealing import KAnnealing
from saereg_plugin.mechanics.rate_scaling import ActivationRateScaling
from saereg_plugin.mechanics.resampling import DeadLatentResampling
from saereg_plugin.mechanics.weight_decay import WeightDecay

__all__ = [
    "ActivationRateScaling",
    "DeadLatentResampling",
    "GradientClipping",
    "KAnnealing",
    "MechanicConfig",
    "WeightDecay",
]
