"""Settings of the death evaluation."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from eval_recipes.results.metrics import setting
from saereg_plugin.metrics.born_dead import TOKENS


@dataclass
class DeathEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = setting(
        0, "Random Seed", "Seed of the bootstrap of the activations' figures"
    )
    n_resamples: int = setting(
        1000, "Bootstrap Resamples", "Resamples behind each of these intervals", ge=1
    )
    collapsed_ratio: float = setting(
        0.1,
        "Collapsed Ratio",
        "A latent has collapsed if its encoder's norm is below this share of its norm at the start",
        gt=0,
        lt=1,
    )
    prediction_tokens: int = setting(
        TOKENS,
        "Prediction Tokens",
        "N of the born-dead prediction: tokens in which a latent may fire",
        ge=2,
    )
    replay_start: bool = setting(
        True,
        "Replay Start",
        "Whether to run the initial weights along the inputs as well, which counts the born dead",
    )
