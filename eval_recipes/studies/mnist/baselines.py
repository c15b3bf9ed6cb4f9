"""What the figures are without training: random directions, and the weights a run starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eval_recipes.studies.mnist.pairs import Pair, measure_pair
from eval_recipes.studies.mnist.settings import PIXELS, Setting, Training
from eval_recipes.studies.mnist.weights import Weights, initial_weights

Seeds = tuple[int, int]


@dataclass(frozen=True)
class Baseline:
    """Untrained pairs of the shape that the trained ones have."""

    name: str
    label: str
    pairs: dict[Seeds, Pair]


def random_weights(d_sae: int, *, seed: int) -> Weights:
    """Draw encoder and decoder rows [d_sae, 784] of uniform directions, independently."""
    generator = torch.Generator().manual_seed(seed)
    enc, dec = torch.randn(2, d_sae, PIXELS, generator=generator)
    return Weights(enc, dec)


def measure_baselines(
    settings: Sequence[Setting], pairs: Sequence[Seeds], training: Training
) -> list[Baseline]:
    """
    Match random directions once, and starts of every kind in ``settings``.

    Args:
        settings: trained ones; only whether they start tied matters here.
        pairs: pairs of seeds that were trained.
        training: says the shape, and the bound of untied starts.
    """
    if not pairs:
        return []
    both = [random_weights(training.d_sae, seed=seed) for seed in (0, 1)]
    found = [Baseline("random", "random directions", {(0, 1): measure_pair(*both)})]
    by_start = {setting.tied: setting for setting in settings}
    for tied, setting in sorted(by_start.items()):
        starts = {
            seed: initial_weights(setting, training, seed=seed)
            for seed in sorted({seed for pair in pairs for seed in pair})
        }
        kind = "tied" if tied else "untied"
        measured = {(a, b): measure_pair(starts[a], starts[b]) for a, b in pairs}
        found.append(Baseline(f"{kind}-start", f"{kind}, before training", measured))
    return found
