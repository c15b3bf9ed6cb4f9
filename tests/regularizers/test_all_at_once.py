"""All regularisers that fit in one SAE, at once: every one acts, the loss is their sum, it resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import saereg_plugin as sr
from tests.regularizers.synthetic import (
    CONTEXT,
    D_IN,
    in_batches,
    small_sae,
    token_data,
)
from tests.regularizers.test_matrix import COEFFICIENTS, OWN
from tests.training import (
    assert_same_optimizer,
    assert_same_state,
    make_trainer,
    run_steps,
)

STEPS = 10
HALF = 5
NEED_ALL = frozenset({"off_support_l1", "l1_l2_ratio"})
"""They need all pre-activations, and are void on the standard architecture."""

SETTINGS: dict[str, tuple[str, frozenset[str], dict[str, Any]]] = {
    "topk": ("topk", OWN, {}),
    # Multi-TopK is of topk alone
    "standard": ("standard", OWN - NEED_ALL - {"multi_topk"}, {}),
    "sparse": ("topk", OWN - NEED_ALL, {"sparse_step": "always"}),
}


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("embeddings") / "tokens.safetensors"
    rows = torch.randn(20, D_IN, generator=torch.Generator().manual_seed(1))
    save_file({"wte.weight": rows}, path)
    return str(path)


def linked_pair(setting: str, embeddings: str) -> dict[str, Any]:
    """Two linked SAEs that differ in their seed."""
    architecture, names, fields = SETTINGS[setting]
    own: dict[str, dict[str, Any]] = {
        "temporal_difference": {"context_size": CONTEXT},
        "vocabulary_anchor": {"embeddings": embeddings, "top": 5, "refresh_every": 3},
        # no ramp: it acts in the first step
        "mutual_features": {"schedule": {}},
    }
    regularizers = [
        {"name": name, "coefficient": COEFFICIENTS[name], **own.get(name, {})}
        for name in sorted(names)
    ]
    saes = {
        str(seed): small_sae(
            architecture, regularizers=regularizers, init_seed=seed, **fields
        )
        for seed in (1, 2)
    }
    return sr.link_saes(saes)


def trainers_of(saes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: make_trainer(sae, iter(()), steps=STEPS) for name, sae in saes.items()
    }


def data(start: int = 0) -> Iterator[torch.Tensor]:
    """Whole contexts in order."""
    return in_batches(token_data(8 * STEPS), 8 * CONTEXT, start)


def train(trainers: dict[str, Any], batches: Iterator[torch.Tensor], n: int) -> Any:
    """Step all in every round, as SAELens' MultiSAETrainer; the outputs of each."""
    outputs: dict[str, list[Any]] = {name: [] for name in trainers}
    for _ in range(n):
        batch = next(batches)
        for name, trainer in trainers.items():
            trainer.data_provider = iter([batch])
            outputs[name] += run_steps(trainer, 1)
    return outputs


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_acts_and_the_loss_is_their_sum(setting: str, embeddings: str) -> None:
    _, names, fields = SETTINGS[setting]
    saes = linked_pair(setting, embeddings)
    for name, outputs in train(trainers_of(saes), data(), STEPS).items():
        for output in outputs:
            losses = {key: float(loss.detach()) for key, loss in output.losses.items()}
            assert names < set(losses)
            assert all(abs(value) < 1e6 for value in losses.values())
            assert all(losses[each] != 0 for each in names), losses
            total = float(output.loss.detach())
            assert total == pytest.approx(sum(losses.values()), rel=1e-5)
        sae = saes[name]
        assert sae.step_index == STEPS
        assert all(bool(p.isfinite().all()) for p in sae.parameters())
        assert getattr(sae, "took_sparse_step", False) == bool(fields)


@pytest.mark.parametrize("setting", SETTINGS)
def test_resumed_training_equals_uninterrupted(
    setting: str, embeddings: str, tmp_path: Path
) -> None:
    whole = trainers_of(linked_pair(setting, embeddings))
    train(whole, data(), STEPS)

    first = trainers_of(linked_pair(setting, embeddings))
    train(first, data(), HALF)
    second = trainers_of(linked_pair(setting, embeddings))
    for name, trainer in first.items():
        trainer.save_checkpoint(name, base_path=tmp_path)
        second[name].load_trainer_state(tmp_path / name)
        second[name].sae.load_weights_from_checkpoint(tmp_path / name)
        assert second[name].sae.step_index == HALF
    train(second, data(start=HALF), STEPS - HALF)
    for name, trainer in second.items():
        assert_same_state(trainer.sae, whole[name].sae)
        assert_same_optimizer(trainer.optimizer, whole[name].optimizer)
        assert not torch.equal(trainer.sae.W_dec, first[name].sae.W_dec)
