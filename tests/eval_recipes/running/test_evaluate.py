"""A release evaluated in one call, with both of TransformerLens' model classes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import eval_recipes
import saereg_plugin as sr
from eval_recipes.running.run import Outcome
from saereg_plugin.releases.release import Release
from saereg_plugin.sources import models

pytestmark = pytest.mark.slow

EVALS = ["core", "cross_seed", "sparse_probing"]
SETTINGS: Mapping[str, Any] = {
    "heldout_tokens": 1024,
    "data": "embedded",
    "options": {
        "core": {"n_eval_sparsity_variance_batches": 1, "eval_batch_size_prompts": 2},
        "cross_seed": {"n_resamples": 50},
        "sparse_probing": {
            "dataset_names": ["embedded/emotion"],
            "probe_train_set_size": 40,
            "probe_test_set_size": 20,
            "context_length": 24,
            "k_values": [1, 2],
        },
    },
}


def evaluate(release: Any, folder: Path, **changes: Any) -> Outcome:
    return eval_recipes.evaluate(
        release,
        changes.pop("evals", EVALS),
        folder / "out",
        artifacts=folder / "artifacts",
        **{**SETTINGS, **changes},
    )


@pytest.fixture(scope="module")
def hooked(
    trained_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    return evaluate(trained_release, tmp_path_factory.mktemp("hooked"))


@pytest.fixture(scope="module")
def bridged(
    trained_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    folder = tmp_path_factory.mktemp("bridge")
    return evaluate(trained_release, folder, model_class=models.BRIDGE)


def compared(hooked: Outcome, bridged: Outcome) -> pd.DataFrame:
    """The values of both by SAE and metric; clock times are left out."""
    keys = ["eval", "metric", "sae_id"]
    both = [
        outcome.frame.set_index(keys)[["value", "low", "high"]]
        for outcome in (hooked, bridged)
    ]
    assert len(both[0]) == len(both[1]) > 100
    return both[0].join(both[1], lsuffix="", rsuffix="_bridge")


def test_both_model_classes_measure_the_same(hooked: Outcome, bridged: Outcome) -> None:
    assert hooked.failures == bridged.failures == []
    table = compared(hooked, bridged)
    gap = (table["value"] - table["value_bridge"]).abs()
    table["gap"] = gap / table["value"].abs().clip(lower=1.0)
    print(table["gap"].groupby("eval").describe().to_string())
    print(table.nlargest(12, "gap").to_string())
    assert table["gap"].max() < 1e-3
    # they were not one model
    assert table["gap"].max() > 0
