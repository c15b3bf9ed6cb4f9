"""Energy of a task vector in chosen directions, against least squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eval_recipes.layers.task_energy import task_energy
from saereg_plugin.sources.task_vectors import TaskVector
from tests.oracles.layers_oracle import share_in_span

D = 40


def folder_of(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def change() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {
        "self_attn.o_proj": (D, D),
        "mlp.down_proj": (D, 60),
        "mlp.up_proj": (60, D),
    }
    return {f"model.layers.0.{k}.weight": torch.randn(v) for k, v in shapes.items()}


def opened(tmp_path: Path, change: dict[str, torch.Tensor]) -> TaskVector:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in change.items()}
    base, tuned = (
        folder_of(tmp_path / "base", zeros),
        folder_of(tmp_path / "ft", change),
    )
    return TaskVector.open(base, tuned)


def test_kept_energy_is_that_of_least_squares(
    tmp_path: Path, change: dict[str, torch.Tensor]
) -> None:
    rows = torch.randn(200, D)
    found = task_energy(opened(tmp_path, change), 0, rows, [3, 9, 20, 30], seed=0)
    assert found is not None
    written = [t for n, t in change.items() if "o_proj" in n or "down_proj" in n]
    joined = torch.cat(written, dim=1).double().numpy()
    chosen = rows[[3, 9, 20, 30]].double().numpy()
    assert found.written == pytest.approx(share_in_span(joined, chosen))
    read = change["model.layers.0.mlp.up_proj.weight"].double().numpy().T
    assert found.read == pytest.approx(share_in_span(read, chosen))
    both = np.concatenate([joined, read], axis=1)
    assert found.kept == pytest.approx(share_in_span(both, chosen))
    assert (found.rank, found.d, found.latents) == (4, D, 4)


def test_a_random_change_keeps_about_k_over_d(
    tmp_path: Path, change: dict[str, torch.Tensor]
) -> None:
    rows = torch.randn(200, D)
    found = task_energy(opened(tmp_path, change), 0, rows, range(8), seed=0)
    assert found is not None
    assert found.law == 8 / D
    low, high = found.random_subspaces
    assert low < found.law < high
    assert found.kept == pytest.approx(found.law, abs=0.05)
    assert found.random_latents == pytest.approx(found.law, abs=0.05)
    assert found.best > high


def test_a_change_along_the_latents_is_kept_whole_whatever_their_rank(
    tmp_path: Path,
) -> None:
    rows = torch.randn(10, D)
    rows[1] = 2 * rows[0]
    name = "model.layers.0.mlp.down_proj.weight"
    found = task_energy(
        opened(tmp_path, {name: torch.outer(rows[0], torch.randn(60))}),
        *(0, rows, [0, 1]),
        seed=0,
    )
    assert found is not None
    assert found.rank == 1
    assert found.kept == pytest.approx(1.0, abs=1e-6)
    assert found.best == pytest.approx(1.0, abs=1e-6)
    assert found.read is None


def test_an_unchanged_or_unknown_layer_has_no_energy(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.odd_name.weight"
    task = opened(tmp_path, {name: torch.randn(D, D)})
    assert task_energy(task, 0, torch.randn(10, D), [0], seed=0) is None
