"""Random SAEs of the shapes that trained ones have, measured alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eval_recipes.cross_seed.aggregate import (
    Figures,
    decoder_geometry,
    geometry_figures,
    pair_figures,
    share_figure,
)
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import PairFigures, measure_pair
from eval_recipes.cross_seed.weights import Loaded, Shape, Weights
from saereg_plugin.metrics import (
    latent_stability,
    mean_max_cos,
    share_classes,
    stable_mask,
)


@dataclass(frozen=True)
class Baseline:
    """Random SAEs of one shape, measured as trained ones are."""

    figures: Figures
    """Of the first against the second, and of the first alone."""
    stability: Mapping[int, Figures]
    """Of the first against several others, by their number."""
    alive_geometry: Mapping[int, Figures]
    """Of as many decoder rows as an SAE has alive latents, by their number."""
    pair: PairFigures
    weights: Weights

    def beside(self, weights: Weights, *, n_others: int) -> Figures:
        """Return what stands beside the figures of an SAE with ``n_others`` other seeds."""
        alive = self.alive_geometry[len(weights.alive_ids)]
        return {**self.figures, **self.stability[n_others], **alive}


def random_weights(
    shape: Shape, generator: torch.Generator, *, alive_threshold: float
) -> Weights:
    """
    Draw a random SAE: decoder rows and encoder columns independent Gaussian vectors.

    Their directions are uniform, so for cosines they are random unit vectors.
    """
    d_sae, d_in = shape
    return Weights.of(
        torch.randn(d_in, d_sae, generator=generator),
        torch.randn(d_sae, d_in, generator=generator),
        alive_threshold=alive_threshold,
    )


def measure_baseline(
    random: Weights,
    pair: PairFigures,
    groups: Sequence[Mapping[int, Loaded]],
    generator: torch.Generator,
    config: CrossSeedEvalConfig,
) -> Baseline:
    """Return the figures of a random SAE that those of ``groups`` are compared with."""
    d_sae, d_in = random.dec.shape
    similarity, shared = pair_figures({(0, 1): pair}, 0, config)
    geometry = geometry_figures(random, config)
    # it has another number of alive rows than an SAE, and its norms are what they were drawn as
    of_alive = [name for name in geometry if name.endswith("_alive")]
    left_out = {*of_alive, "decoder_norm"}
    own = {name: geometry[name] for name in geometry if name not in left_out}

    def of_first(n: int) -> Figures:
        if n < d_sae:
            return decoder_geometry(random.dec[:n], "_alive", config)
        return {name: geometry[name.removesuffix("_alive")] for name in of_alive}

    n_others = sorted({len(saes) - 1 for saes in groups})
    n_alive = {len(sae.weights.alive_ids) for saes in groups for sae in saes.values()}
    masks = [(pair.match[0].shared, pair.match_alive[0].shared)]
    for _ in range(n_others[-1] - 1):
        other = random_weights(
            (d_sae, d_in), generator, alive_threshold=config.alive_threshold
        )
        masks.append(_shared_by_chance(random, other, config))
    return Baseline(
        figures={**similarity, **shared, **own},
        stability={
            n: _stability_by_chance(masks[:n], random.alive, config) for n in n_others
        },
        alive_geometry={n: of_first(n) for n in n_alive},
        pair=pair,
        weights=random,
    )


def _shared_by_chance(
    a: Weights, b: Weights, config: CrossSeedEvalConfig
) -> tuple[Tensor, Tensor]:
    """
    Return which latents of A are shared with B, all matched and alive ones matched.

    Nothing is shared where no latent has a |cosine| above the threshold by both decoder and
    encoder, whatever the matching: then, as for nearly all random SAEs, none is searched for.
    """
    near = torch.ones(len(a.dec), dtype=torch.bool)
    for own, others in ((a.dec, b.dec), (a.enc, b.enc)):
        if near.any():
            near &= (
                mean_max_cos(own, others, unit=True).a_to_b > config.shared_threshold
            )
    if not near.any():
        return near, near
    pair = measure_pair(a, b, config)
    return pair.match[0].shared, pair.match_alive[0].shared


def _stability_by_chance(
    masks: Sequence[tuple[Tensor, Tensor]], alive: Tensor, config: CrossSeedEvalConfig
) -> Figures:
    """Return stability and stable latents, given those shared with each other SAE."""
    everything, filtered = (torch.stack(found) for found in zip(*masks, strict=True))
    figures: Figures = {}
    for suffix, shared in (("", everything), ("_alive", filtered[:, alive])):
        for name, mask in share_classes(shared)._asdict().items():
            figures[f"{name}_shared{suffix}"] = (
                share_figure(mask, config) if len(mask) else None
            )
    stable = stable_mask(latent_stability(everything), minimum=config.stable_minimum)
    return {**figures, "stable_latents": share_figure(stable, config)}
