"""A rotated basis by construction, through the whole evaluation on the model."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from eval_recipes.cross_seed.output import read_stability
from eval_recipes.results.reading import read_result
from eval_recipes.running.context import RunContext
from tests.conftest import HOOK_NAME
from tests.eval_recipes.cross_seed.test_nulls import HADAMARD, THIRD
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

run = Named("cross_seed").run
GROUPS, FIRST = 16, 40
"""Groups of 6 latents in 4 dimensions each, from this principal direction on."""


def rows_of(seed: int, directions: Tensor) -> Tensor:
    """Sixteen groups of one seed; |cosine| to those of the other seed is at most 1/2."""
    group = (torch.cat([torch.eye(4), THIRD[:2]]), torch.cat([HADAMARD, THIRD[2:]]))[
        seed
    ]
    blocks = directions.view(GROUPS, 4, -1)
    return torch.cat([group @ block for block in blocks])


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    activations: Tensor,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Metrics and stability table of one of two planted seeds, which all fire."""
    folder = tmp_path_factory.mktemp("planted")
    mean = activations.mean(0)
    _, vectors = torch.linalg.eigh(torch.cov(activations.double().T))
    directions = vectors.flip(1).T[FIRST : FIRST + 4 * GROUPS].float()
    saes: dict[str, Any] = {}
    for seed in (0, 1):
        sae = tiny_sae(model_name, HOOK_NAME, mean, seed)
        rows = rows_of(seed, directions)
        sae.cfg.k = sae.cfg.d_sae = len(rows)
        sae.W_dec.data, sae.W_enc.data = rows.clone(), rows.T.contiguous().clone()
        sae.b_enc.data = torch.zeros(len(rows))
        saes[f"s{seed}"] = sae
    context = RunContext(
        save_release(folder / "planted", saes),
        folder / "out",
        heldout_tokens=2048,
        options={"cross_seed": {"n_resamples": 50, "loss_contexts": 2}},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    assert run(context) == []
    path = context.out / "cross_seed" / "planted_s0_eval_results.json"
    return read_result(path)["eval_result_metrics"], read_stability(path)


def test_latents_do_not_match_but_their_spans_do(
    found: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    metrics, table = found
    assert metrics["shared"]["shared"] == 0
    assert metrics["similarity"]["pw_mcc_absolute"] < 0.51
    spans = metrics["spans"]
    assert spans["span_nearest_1"] == pytest.approx(0.25, abs=1e-4)
    assert spans["span_nearest_8"] == pytest.approx(1, abs=1e-4)
    assert spans["span_random_8"] < 0.49
    assert (spans["basis_single"], spans["basis_rotated"]) == (0, 1)
    assert spans["basis_rotated_chance"] < 0.5
    assert (table["span_nearest_8"] > 0.999).all()
    assert (table["span_nearest_1"] < 0.251).all()


def test_their_subspaces_overlap_by_more_than_the_data_give(
    found: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    subspaces = found[0]["subspaces"]
    assert subspaces["unstable_overlap"] == pytest.approx(1, abs=1e-4)
    assert subspaces["unstable_overlap_gaussian"] < 0.95
    assert subspaces["unstable_overlap_excess_ci_low"] > 0
    # not because they are the leading directions
    assert subspaces["unstable_overlap_pca"] < subspaces["unstable_overlap"] - 0.3
    # nothing is stable to compare with
    assert subspaces["stable_overlap_matched"] is None


def test_unstable_latents_carry_all_of_the_loss(
    found: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    metrics, table = found
    loss = metrics["loss"]
    for kind in ("ce", "kl"):
        assert loss[f"{kind}_unstable"] == loss[f"{kind}_reconstruction"]
        assert loss[f"{kind}_stable"] == loss[f"{kind}_bias"]
    assert loss["kl_unstable"] < loss["kl_stable"]
    # stability does not vary, so that nothing goes with it
    assert metrics["firing"]["firing_stability"] is None
    assert (table["stability"] == 0).all()
    assert (table["firing_rate"] > 0).all()
