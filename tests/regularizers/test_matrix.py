"""Every regulariser trains on every architecture, or is refused for a mathematical reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import saereg_plugin as sr
from saereg_plugin.registry import REGULARIZERS
from tests.conftest import HOOK_LAYER, HOOK_NAME
from tests.training import (
    ARCHITECTURES,
    BATCH,
    D_IN,
    batches,
    make_cfg,
    make_sae,
    make_trainer,
    run_steps,
)

PAGE = Path(__file__).parents[2] / "docs/methods/matrix.md"
STEPS = 50
CONTEXT = 16

REFUSED = {
    ("off_support_l1", "standard"): "a - z and its gradient are 0",
    ("l1_l2_ratio", "standard"): "there z = a",
    **{
        ("multi_topk", architecture): "selected row by row"
        for architecture in ARCHITECTURES
        if architecture != "topk"
    },
}
"""What may be refused, and the reason that the error must give."""

COEFFICIENTS = {
    "weight_penalty": 1e-3,
    "off_support_l1": 1e-2,
    "l1_l2_ratio": 1e-2,
    "frequency_weighted_l1": 0.1,
    "temporal_difference": 0.1,
    "vocabulary_anchor": 1.0,
    "mutual_features": 1.0,
    "orthogonality": 0.25,
    "mono_loss": 0.09,
    "multi_topk": 0.125,
}

OWN = frozenset(
    name
    for name, cls in REGULARIZERS.items()
    if cls.__module__.startswith("saereg_plugin.")
)
"""Ours: other tests register throwaway ones in the same table."""


@pytest.fixture(scope="module")
def in_order(model: HookedTransformer, contexts: torch.Tensor) -> torch.Tensor:
    """Activations of contexts of 16 tokens, BOS first, in the order of the text."""
    with torch.no_grad():
        _, cache = model.run_with_cache(
            contexts[:, :CONTEXT],
            names_filter=HOOK_NAME,
            stop_at_layer=HOOK_LAYER + 1,
        )
    return cache[HOOK_NAME].reshape(-1, D_IN).clone()


def fields(name: str, architecture: str) -> dict[str, Any]:
    """An SAE with the regulariser, which replaces SAELens' own L1 where it must."""
    regularizer = {"name": name, "coefficient": COEFFICIENTS[name]}
    given: dict[str, Any] = {
        "regularizers": [regularizer],
        "normalize_activations": "expected_average_only_in",
    }
    if name == "frequency_weighted_l1" and architecture == "standard":
        given["l1_coefficient"] = 0.0
    return given


def trained(
    name: str, architecture: str, data: Iterator[torch.Tensor], *, n_saes: int
) -> list[list[float]]:
    """The regulariser's value in each of 50 steps of SAELens' trainer, for each SAE."""
    saes = {
        str(seed): make_sae(architecture, seed=seed, **fields(name, architecture))
        for seed in range(n_saes)
    }
    for sae in saes.values():
        metadata = sae.cfg.metadata
        metadata.model_name = "smollm2-135m-instruct"
        metadata.model_class_name = "HookedTransformer"
        metadata.context_size = CONTEXT
        metadata.prepend_bos = True
        metadata.exclude_special_tokens = False
        metadata.seqpos_slice = (None,)
        metadata.disable_concat_sequences = False
    if n_saes > 1:
        sr.link_saes(saes)
    trainers = [make_trainer(sae, iter(()), steps=STEPS) for sae in saes.values()]
    values: list[list[float]] = [[] for _ in trainers]
    for _ in range(STEPS):
        batch = next(data)
        for trainer, own in zip(trainers, values):
            trainer.data_provider = iter([batch])
            (output,) = run_steps(trainer, 1)
            losses = {key: float(loss.detach()) for key, loss in output.losses.items()}
            assert all(math.isfinite(loss) for loss in losses.values())
            assert math.isfinite(float(output.loss.detach()))
            own.append(losses[name])
    for trainer in trainers:
        assert all(bool(p.isfinite().all()) for p in trainer.sae.parameters())
        assert trainer.sae.step_index == STEPS
    return values


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", sorted(OWN))
def test_fifty_steps_on_real_activations(
    name: str,
    architecture: str,
    activations: torch.Tensor,
    in_order: torch.Tensor,
) -> None:
    if (name, architecture) in REFUSED:
        with pytest.raises(sr.InputError, match=REFUSED[name, architecture]):
            make_cfg(architecture, **fields(name, architecture))
        return
    rows = in_order if name == "temporal_difference" else activations
    n_saes = 2 if name == "mutual_features" else 1
    for values in trained(name, architecture, batches(rows, BATCH), n_saes=n_saes):
        # it acts: a value that is 0 throughout would train like the plain architecture
        assert any(value != 0 for value in values)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_temporal_difference_without_order_is_refused(
    architecture: str, activations: torch.Tensor
) -> None:
    with pytest.raises(sr.InputError, match="activations_mixing_fraction=0"):
        trained(
            "temporal_difference", architecture, batches(activations, BATCH), n_saes=1
        )


def test_the_page_says_what_is_tested() -> None:
    table = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    header = next(row for row in table if row[0] == "regulariser")
    assert header[1:] == list(ARCHITECTURES)
    rows = {
        row[0].strip("`"): row[1:]
        for row in table
        if len(row) == len(header) and row[0].strip("`") in OWN
    }
    assert set(rows) == OWN == set(COEFFICIENTS)
    for name, cells in rows.items():
        for architecture, cell in zip(ARCHITECTURES, cells):
            refused = (name, architecture) in REFUSED
            assert cell.startswith("refused") == refused, (name, architecture)
