"""Speed benchmarks against peers."""

from eval_recipes.speed.measurement import Row, Shape, SpeedConfig
from eval_recipes.speed.run import SUITES, run_speed

__all__ = ["SUITES", "Row", "Shape", "SpeedConfig", "run_speed"]
