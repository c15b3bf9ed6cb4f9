"""Scores of one SAE on one data set, upstream's and paired."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_bench.evals.sparse_probing import main as upstream_main
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils import activation_collection
from sae_lens import SAE
from torch import Tensor

from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.saebench.sparse_probing import cache
from eval_recipes.saebench.sparse_probing.paired import (
    Correct,
    Draws,
    Features,
    Scored,
    from_tensors,
    score,
    stable_seed,
    to_tensors,
)
from eval_recipes.saebench.upstream import patched, preserved_state


class SetScores(NamedTuple):
    """Paired results of one data set."""

    scored: Scored
    random_l0: int | None


def scorer(
    folders: Mapping[str, ArtifactFolder],
    results: dict[str, SetScores],
    *,
    random_baseline: bool,
) -> Callable[..., tuple[dict[str, float], dict[str, Any]]]:
    """
    Return a replacement of upstream's ``run_eval_single_dataset``.

    It runs upstream on each data set's own folder, and scores the same features once more on
    the paired draws, into ``results``.
    """
    single: Any = upstream_main.run_eval_single_dataset
    mean = activation_collection.get_sae_meaned_activations

    def run(
        name: str, config: SparseProbingEvalConfig, sae: SAE[Any], *rest: Any
    ) -> tuple[dict[str, float], dict[str, Any]]:
        features: list[Features] = []

        def recorded(*args: Any, **kwargs: Any) -> Features:
            features.append(mean(*args, **kwargs))
            return features[-1]

        folder = folders[name]
        # model, layer, hook, device; upstream's folder; whether to keep activations
        *place, _, save = rest
        with patched(activation_collection, "get_sae_meaned_activations", recorded):
            figures = single(name, config, sae, *place, str(folder.path), save)
        # upstream's random state must be its own in the next set
        with preserved_state():
            paired = cache.load_paired(folder)
            draws = cache.draws_of(paired, name, config.random_seed)
            correct = from_tensors(paired["llm"])
            train, test = features
            correct |= _score_readers("sae", train, test, draws, config)
            l0 = None
            if random_baseline:
                acts = cache.load_activations(folder, name)
                l0 = mean_l0(sae, acts["train"])
                correct |= _random(folder, acts, draws, config, int(sae.cfg.d_sae), l0)
            scored = Scored(
                draws,
                n_test=sum(n for _, n in paired["sizes"].values()),
                correct=correct,
                left_out=sum(int(mask.sum()) for mask in paired["left_out"].values()),
            )
            results[name] = SetScores(scored, l0)
        return figures

    return run


def _score_readers(
    reader: str,
    train: Features,
    test: Features,
    draws: Draws,
    config: SparseProbingEvalConfig,
) -> dict[str, Correct]:
    """Score probes on all features, but for a random dictionary, and on the top k."""
    names = {} if reader == "random" else {f"{reader}_all": None}
    names |= {f"{reader}_top_{k}": k for k in config.k_values}
    return {
        name: score(train, test, draws, k, seed=config.random_seed)
        for name, k in names.items()
    }


def _random(
    folder: ArtifactFolder,
    activations: cache.Activations,
    draws: Draws,
    config: SparseProbingEvalConfig,
    d_sae: int,
    l0: int,
) -> dict[str, Correct]:
    """Score a random dictionary; SAEs of one width and sparsity share the result."""

    def make(path: Path) -> None:
        means = activation_collection.create_meaned_model_activations(
            activations["train"]
        )
        centre = torch.cat(list(means.values())).float().mean(0)
        seed = stable_seed("random dictionary", config.random_seed)
        directions = random_directions(len(centre), d_sae, seed).to(centre.device)
        size = config.sae_batch_size
        train, test = (
            random_features(texts, directions, centre, l0, batch_size=size)
            for texts in (activations["train"], activations["test"])
        )
        correct = _score_readers("random", train, test, draws, config)
        torch.save(to_tensors(correct), path)

    path = folder.ensure(f"random_{d_sae}_{l0}_{config.sae_batch_size}.pt", make)
    return from_tensors(torch.load(path, weights_only=True))


SAMPLE_TEXTS = 8
"""Train texts per class for the L0 of an SAE."""


@torch.no_grad()
def mean_l0(sae: SAE[Any], activations: Mapping[str, Tensor]) -> int:
    """
    Return an SAE's mean number of active latents per token, rounded, at least 1.

    Activations are by class (texts, tokens, d_in), 0 at special tokens.
    """
    active = tokens = 0
    for texts in activations.values():
        x = texts[:SAMPLE_TEXTS].to(device=sae.device, dtype=sae.dtype)
        kept = x.sum(-1) != 0
        active += int((sae.encode(x)[kept] != 0).sum())
        tokens += int(kept.sum())
    return max(1, round(active / max(1, tokens)))


def random_directions(d_in: int, d_sae: int, seed: int) -> Tensor:
    """Return unit columns in uniformly random directions, shape (d_in, d_sae)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(
        torch.randn(d_in, d_sae, generator=generator), dim=0
    )


@torch.no_grad()
def random_features(
    activations: Mapping[str, Tensor],
    directions: Tensor,
    centre: Tensor,
    l0: int,
    *,
    batch_size: int,
) -> dict[str, Tensor]:
    """
    Return mean activations of a random TopK dictionary by text, shape (texts, d_sae).

    Each token's activation ``x`` gives the ``l0`` largest entries of
    ``ReLU((x - centre) R)``. The mean leaves out special tokens, as upstream's
    ``get_sae_meaned_activations`` does.

    Args:
        activations: by class (texts, tokens, d_in), 0 at special tokens.
        directions: R, shape (d_in, d_sae).
        centre: shape (d_in,).
        l0: latents per token.
        batch_size: texts encoded at a time.
    """
    return {
        name: torch.cat(
            [
                _encode(batch.float(), directions, centre, l0)
                for batch in texts.split(batch_size)
            ]
        )
        for name, texts in activations.items()
    }


def _encode(x: Tensor, directions: Tensor, centre: Tensor, l0: int) -> Tensor:
    kept = x.sum(-1) != 0
    latents = ((x - centre) @ directions).relu_()
    least = latents.topk(l0, dim=-1).values[..., -1:]
    latents *= (latents >= least) & kept[..., None]
    return latents.sum(1) / kept.sum(1, keepdim=True)
