"""One SAE on one data set: upstream's figures, and the paired ones beside them."""

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
    Scored,
    score,
    stable_seed,
)
from eval_recipes.saebench.upstream import patched, preserved_state

Features = Mapping[str, Tensor]


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
    Stand in for upstream's ``run_eval_single_dataset``, which does the work.

    It reads each data set's own folder, and what it computed of the SAE is scored once
    more on the paired draws, into ``results``.
    """
    single = upstream_main.run_eval_single_dataset
    mean = activation_collection.get_sae_meaned_activations

    def run(
        dataset_name: str,
        config: SparseProbingEvalConfig,
        sae: SAE[Any],
        model: Any,
        layer: int,
        hook_point: str,
        device: str,
        _artifacts_folder: str,
        save_activations: bool,
    ) -> tuple[dict[str, float], dict[str, Any]]:
        features: list[Features] = []

        def recorded(*args: Any, **kwargs: Any) -> Features:
            features.append(mean(*args, **kwargs))
            return features[-1]

        folder = folders[dataset_name]
        with patched(activation_collection, "get_sae_meaned_activations", recorded):
            figures = single(
                dataset_name,
                config,
                sae,
                model,
                layer,
                hook_point,
                device,
                str(folder.path),
                save_activations,
            )
        # Upstream goes on with the next set: its random numbers stay its own.
        with preserved_state():
            results[dataset_name] = _paired(
                folder,
                dataset_name,
                config,
                sae,
                features,
                random_baseline=random_baseline,
            )
        return figures

    return run


def _paired(
    folder: ArtifactFolder,
    dataset_name: str,
    config: SparseProbingEvalConfig,
    sae: SAE[Any],
    features: list[Features],
    *,
    random_baseline: bool,
) -> SetScores:
    paired = cache.load_paired(folder)
    seed = config.random_seed
    draws = cache.draws_of(paired, dataset_name, seed)
    correct: dict[str, Correct] = {
        reader: {name: right.numpy() for name, right in by_class.items()}
        for reader, by_class in paired["llm"].items()
    }
    train, test = features
    correct["sae_all"] = score(train, test, draws, None, seed=seed)
    for k in config.k_values:
        correct[f"sae_top_{k}"] = score(train, test, draws, k, seed=seed)
    l0 = None
    if random_baseline:
        l0 = mean_l0(sae, cache.load_activations(folder, dataset_name)["train"])
        d_sae = int(sae.cfg.d_sae)
        correct |= _random(folder, dataset_name, config, draws, d_sae=d_sae, l0=l0)
    return SetScores(
        Scored(
            draws,
            n_test=sum(n for _, n in paired["sizes"].values()),
            correct=correct,
            left_out=sum(int(mask.sum()) for mask in paired["left_out"].values()),
        ),
        l0,
    )


def _random(
    folder: ArtifactFolder,
    dataset_name: str,
    config: SparseProbingEvalConfig,
    draws: Draws,
    *,
    d_sae: int,
    l0: int,
) -> dict[str, Correct]:
    """Score a random dictionary; SAEs of one width and sparsity share the result."""

    def make(path: Path) -> None:
        correct = _score_random(folder, dataset_name, config, draws, d_sae=d_sae, l0=l0)
        stored = {
            reader: {name: torch.from_numpy(right) for name, right in by_class.items()}
            for reader, by_class in correct.items()
        }
        torch.save(stored, path)

    path = folder.ensure(f"random_{d_sae}_{l0}_{config.sae_batch_size}.pt", make)
    stored: dict[str, dict[str, Tensor]] = torch.load(path, weights_only=True)
    return {
        reader: {name: right.numpy() for name, right in by_class.items()}
        for reader, by_class in stored.items()
    }


def _score_random(
    folder: ArtifactFolder,
    dataset_name: str,
    config: SparseProbingEvalConfig,
    draws: Draws,
    *,
    d_sae: int,
    l0: int,
) -> dict[str, Correct]:
    activations = cache.load_activations(folder, dataset_name)
    means = activation_collection.create_meaned_model_activations(activations["train"])
    centre = torch.cat(list(means.values())).float().mean(0)
    directions = random_directions(
        len(centre), d_sae, stable_seed("random dictionary", config.random_seed)
    ).to(centre.device)
    train, test = (
        random_features(texts, directions, centre, l0, batch_size=config.sae_batch_size)
        for texts in (activations["train"], activations["test"])
    )
    return {
        f"random_top_{k}": score(train, test, draws, k, seed=config.random_seed)
        for k in config.k_values
    }


SAMPLE_TEXTS = 8
"""Train texts a class from which an SAE's L0 is taken."""


@torch.no_grad()
def mean_l0(sae: SAE[Any], activations: Mapping[str, Tensor]) -> int:
    """
    Return an SAE's mean number of active latents on a token, rounded, at least 1.

    Args:
        activations: by class (texts, tokens, d_in), 0 at special tokens.
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

    Of a token's activation ``x``, the ``l0`` largest entries of ``ReLU((x - centre) R)``
    are kept; the mean over the text's tokens leaves out special ones, as upstream's
    ``get_sae_meaned_activations`` does.

    Args:
        activations: by class (texts, tokens, d_in), 0 at special tokens.
        directions: R, shape (d_in, d_sae).
        centre: shape (d_in,).
        l0: latents a token.
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
