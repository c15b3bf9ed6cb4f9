"""The evaluation death on trained and on planted SAEs, against plain loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer

from eval_recipes.death.activations import PointSums
from eval_recipes.death.table import DEATHS
from eval_recipes.death.tally import DeathTally
from eval_recipes.results.files import read_result, result_path
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import subjects_of
from saereg_plugin.architectures.kinds import (
    RegularizedTopKTrainingSAE,
    RegularizedTopKTrainingSAEConfig,
)
from saereg_plugin.releases.release import Release
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae
from tests.oracles import death_oracle as oracle

EVALUATION = Named("death")
TOKENS = 1024


@pytest.fixture(scope="module")
def context(
    trained_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> RunContext:
    assert trained_release.folder is not None
    return RunContext(
        subjects_of(str(trained_release.folder)),
        tmp_path_factory.mktemp("death") / "out",
        heldout_tokens=TOKENS,
        options={"death": {"n_resamples": 50}},
    )


@pytest.fixture(scope="module")
def records(context: RunContext) -> dict[str, dict[str, Any]]:
    assert EVALUATION.run(context) == []
    return {
        subject.sae_id: read_result(path_of(context, subject.sae_id))
        for subject in context.subjects
    }


def path_of(context: RunContext, sae_id: str) -> Path:
    subject = next(s for s in context.subjects if s.sae_id == sae_id)
    return result_path(context.out, "death", subject.release, sae_id)


def tables(context: RunContext) -> dict[str, pd.DataFrame]:
    return {s.sae_id: DEATHS.read(path_of(context, s.sae_id)) for s in context.subjects}


def test_counts_are_those_of_the_table(
    context: RunContext, records: dict[str, dict[str, Any]]
) -> None:
    for sae_id, record in records.items():
        counts = record["eval_result_metrics"]["counts"]
        shares = record["eval_result_metrics"]["shares"]
        table = DEATHS.read(path_of(context, sae_id))
        assert len(table) == 256
        dead = table["cause"] != "alive"
        assert counts["dead"] == dead.sum() == table["pathway"].notna().sum()
        assert counts["alive"] == 256 - counts["dead"]
        assert counts["dead_by_relu"] == (table["pathway"] == "relu").sum()
        assert counts["dead_by_selection"] == (table["pathway"] == "selection").sum()
        assert counts["never_fired"] == (table["cause"] == "never fired").sum()
        assert counts["fired_then_died"] == (table["cause"] == "fired then died").sum()
        assert counts["collapsed"] == table["collapsed"].sum()
        assert shares["dead_share"] == pytest.approx(dead.mean())
        assert shares["born_dead"] == pytest.approx(table["born_dead"].mean())
        assert table["gap"].notna().equals(table["pathway"] == "selection")
        assert (table["gap"].dropna() > 0).all()
        assert counts["dead_n"] == shares["born_dead_n"] > 5
        assert counts["dead_ci_low"] <= counts["dead"] <= counts["dead_ci_high"]


def test_a_dead_latent_never_fired_where_its_last_step_is_none(
    context: RunContext, records: dict[str, dict[str, Any]]
) -> None:
    assert records
    for table in tables(context).values():
        dead = table.loc[table["cause"] != "alive"]
        assert (
            (dead["last_fired_step"] == 0) == (dead["cause"] == "never fired")
        ).all()
        assert table["last_fired_step"].max() == 80


def test_the_encoder_ratio_is_to_the_norm_at_the_start(
    context: RunContext, records: dict[str, dict[str, Any]]
) -> None:
    assert records
    for table in tables(context).values():
        # unit norm: tied rows start at norm 1
        assert np.allclose(table["encoder_norm_start"], 1.0, atol=1e-5)
        assert np.allclose(table["encoder_ratio"], table["encoder_norm"], rtol=1e-4)
        assert (table["collapsed"] == (table["encoder_ratio"] < 0.1)).all()


def test_gamma_is_that_of_the_plain_version(
    records: dict[str, dict[str, Any]],
) -> None:
    sums = PointSums()
    x = torch.randn(6, 5, 12, generator=torch.Generator().manual_seed(0)) + 1.5
    x[..., 0] += 8.0
    keep = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.8
    for number in range(6):
        sums.update(number, x[number : number + 1], keep[number : number + 1])
        # another SAE's tally of the same batch changes nothing
        sums.update(number, x[number : number + 1], keep[number : number + 1])
    centre = x[keep].mean(0) / 2
    found = sums.figures(
        centre=centre, k=4, d_sae=64, tokens=1000, resamples=20, seed=0
    )
    rows = oracle.layer_norm(x[keep].double().tolist())
    gamma = oracle.gamma(rows)
    values = {name: figure.value for name, figure in found.items() if figure}
    assert values["gamma"] == pytest.approx(gamma)
    read = oracle.gamma((x[keep].double() - centre.double()).tolist())
    assert values["gamma_as_read"] == pytest.approx(read)
    assert values["predicted_by_relu"] == pytest.approx(oracle.predicted(gamma, 1000))
    assert values["predicted"] == pytest.approx(oracle.predicted(gamma, 1000, 4, 64))
    assert values["predicted_as_read"] == pytest.approx(
        oracle.predicted(read, 1000, 4, 64)
    )
    assert values["predicted_here"] == pytest.approx(
        oracle.predicted_with_spread(gamma, int(keep.sum()), 4, 64)
    )
    assert values["effective_rank"] == pytest.approx(oracle.effective_rank(rows))
    for record in records.values():
        found = record["eval_result_metrics"]["activations"]
        assert found["gamma_ci_low"] <= found["gamma"] <= found["gamma_ci_high"]


def outliers(d_in: int) -> torch.Tensor:
    """Contexts of tokens with one large constant dimension."""
    x = torch.randn(8, 16, d_in, generator=torch.Generator().manual_seed(3))
    x[..., 0] += 40.0
    return x


def started(b_dec_init: str, *, seed: int = 0) -> DeathTally:
    cfg: Any = RegularizedTopKTrainingSAEConfig(
        d_in=16, d_sae=D_SAE, k=16, init_seed=seed, b_dec_init=b_dec_init
    )
    start = RegularizedTopKTrainingSAE(cfg)
    mean = torch.zeros(16)
    sae = tiny_sae("none", "none", mean, 0)
    tally = DeathTally(sae, start, scale=None, sums=PointSums())
    x = outliers(16)
    for context in range(len(x)):
        tally.update(x[context : context + 1], torch.ones(1, 16, dtype=torch.bool))
    return tally


def test_outliers_make_latents_born_dead_and_centring_removes_them() -> None:
    shifted, centred = started("zero"), started("geometric_median")
    assert shifted.begin is not None and centred.begin is not None
    dead = float((~shifted.begin.fired).double().mean())
    assert dead > 0.5
    assert float((~centred.begin.fired).double().mean()) < 0.1
    predicted = shifted.sums.figures(
        centre=shifted.centre, k=16, d_sae=D_SAE, tokens=128, resamples=10, seed=0
    )["predicted_as_read"]
    # the mean is one dimension's, so that LayerNorm removes none of it
    assert predicted is not None and predicted.value == pytest.approx(dead, abs=0.15)


def test_the_start_is_replayed_as_training_would_begin() -> None:
    tally = started("zero")
    assert tally.begin is not None and tally.start is not None
    rows = outliers(16).flatten(0, 1)
    acts = tally.start.encode(rows)
    assert torch.equal(tally.begin.fired, (acts > 0).any(0))


def test_a_release_without_a_sweep_has_pathways_alone(
    tmp_path: Path, model: HookedTransformer, model_name: str
) -> None:
    mean = torch.zeros(576)
    subjects = save_release(
        tmp_path / "tiny",
        {"tiny": tiny_sae(model_name, "blocks.2.hook_resid_post", mean, 0)},
    )
    context = RunContext(
        subjects,
        tmp_path / "out",
        heldout_tokens=512,
        options={"death": {"n_resamples": 10}},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    assert EVALUATION.run(context) == []
    record = read_result(path_of(context, "tiny"))
    metrics, extra = record["eval_result_metrics"], record["eval_result_unstructured"]
    table = DEATHS.read(path_of(context, "tiny"))
    # latents 0 and 1 have a bias of -1e6
    assert table["pathway"].tolist()[:2] == ["relu", "relu"]
    assert set(table["cause"]) == {"alive", "dead"}
    assert metrics["counts"]["never_fired"] is None
    assert metrics["shares"]["born_dead"] is None
    assert table["encoder_ratio"].isna().all()
    assert set(extra["unknown"]) == {"start", "history"}


def test_without_the_replay_nothing_is_said_of_the_start(
    context: RunContext, tmp_path: Path
) -> None:
    fast = replace(
        context,
        out=tmp_path / "out",
        subjects=context.subjects[:1],
        options={"death": {"n_resamples": 10, "replay_start": False}},
    )
    assert EVALUATION.run(fast) == []
    record = read_result(path_of(fast, fast.subjects[0].sae_id))
    assert record["eval_result_metrics"]["shares"]["born_dead"] is None
    assert record["eval_result_metrics"]["counts"]["collapsed"] is not None
