"""The steering study: what it runs, and its table from real results on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from eval_recipes.statistics import Interval
from eval_recipes.steering.association import Figure, StabilityLink
from eval_recipes.steering.figures import Links
from eval_recipes.steering.logistic import SEPARATED, Coefficient, LogisticFit
from eval_recipes.steering.settings import make_config
from eval_recipes.studies.steering import run_steering_study, sweep_of
from eval_recipes.studies.steering_report import write_steering_report
from eval_recipes.studies.steering_runs import RATIOS, SteeringStudy, runs_of
from eval_recipes.studies.steering_statements import cell, stability_sentence
from saereg_plugin.errors import InputError
from saereg_plugin.releases import (
    Entry,
    Release,
    file_hashes,
    register_release,
    write_release,
)
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import tiny_sae


def test_the_published_setting_comes_first_and_the_grid_is_the_papers() -> None:
    published, ratio = runs_of(SteeringStudy())
    config = make_config(dict(published.options))
    assert (config.strength_mode, config.amounts) == ("fixed", [5.0])
    assert (config.n_latents, len(config.prompts), config.new_tokens) == (300, 3, 30)
    assert (config.greedy, config.positions) == (False, "generation")
    assert (config.temperature, config.top_p) == (0.7, 0.9)
    assert tuple(ratio.options["amounts"]) == RATIOS
    (_, known) = runs_of(SteeringStudy(paper_norm=10.0))
    assert known.options["amounts"] == [0.5]
    # on the paper's own model alpha is the paper's
    assert len(runs_of(SteeringStudy(scale="paper"))) == 1
    grid = runs_of(SteeringStudy(grid=True))[2:]
    assert len(grid) == 12 and sum(len(run.options["amounts"]) for run in grid) == 36
    assert len({run.name for run in grid}) == 12
    for run in grid:
        assert make_config(dict(run.options)).n_latents == 50 and run.seeds == (0,)


def test_both_groups_differ_in_the_penalty_alone() -> None:
    for scale in ("small", "paper"):
        sweep = sweep_of(scale)
        assert tuple(sweep.seeds) == (0, 1, 2)
        groups = {name: dict(fields) for name, fields in sweep.groups.items()}
        assert list(groups) == ["none", "l2"]
        assert not groups["none"].pop("regularizers", None)
        (penalty,) = groups["l2"].pop("regularizers")
        assert (penalty["name"], penalty["norm"]) == ("weight_penalty", "l2")
        assert groups["none"] == groups["l2"]


def link(low: float, high: float) -> Links:
    value = (low + high) / 2
    found = Coefficient("stability", value, 0.1, 0.1, low, high, 0.5)
    fit = LogisticFit({"stability": found}, 30, 10)
    return Links(None, StabilityLink(fit, None, Figure(None, "x")))


def test_statements_follow_from_intervals() -> None:
    assert stability_sentence(link(0.2, 0.9)).startswith("Held here: more stable")
    assert stability_sentence(link(-0.9, -0.2)).startswith("The opposite held here")
    assert stability_sentence(link(-0.9, 0.2)).startswith("Not decided here")
    assert stability_sentence(Links(None, None)).startswith("Not measured here")
    nothing = StabilityLink(LogisticFit({}, 3, 3, SEPARATED), None, Figure(None, "x"))
    assert SEPARATED in stability_sentence(Links(None, nothing))
    assert cell(Interval(0.5, None, None, 3)) == ".500" and cell(None) == "-"
    assert cell(Interval(0.5, 0.25, 0.75, 3)) == ".500 [.250, .750]"


@pytest.fixture(scope="module")
def release(
    tmp_path_factory: pytest.TempPathFactory,
    model: HookedTransformer,
    model_name: str,
    activations: torch.Tensor,
) -> str:
    """Two groups of two seeds."""
    assert model.cfg.d_model == activations.shape[1]
    folder = tmp_path_factory.mktemp("study") / "steering-study"
    entries: list[Entry] = []
    for number, (group, seed) in enumerate(
        (g, s) for g in ("none", "l2") for s in (0, 1)
    ):
        sae_id = f"{group}-s{seed}"
        sae = tiny_sae(model_name, HOOK_NAME, activations.mean(0), number)
        sae.save_model(str(folder / sae_id))
        hashes = file_hashes(folder / sae_id)
        entries.append(Entry(sae_id, sae_id, group=group, seed=seed, files=hashes))
    made = Release(folder.name, model_name, tuple(entries), folder=folder)
    write_release(made)
    register_release(folder)
    return str(folder)


@pytest.mark.slow
def test_a_small_study_in_full(release: str, tmp_path: Path) -> None:
    study = SteeringStudy(
        release=release,
        n_latents=6,
        paper_norm=10.0,
        heldout_tokens=2048,
        settings={
            "judges": ["log_probability"],
            "explainer_tokens": 4096,
            "new_tokens": 4,
            "unsteered_samples": 8,
        },
    )
    lines: list[str] = []
    outcome = run_steering_study(
        study, tmp_path / "out", artifacts=tmp_path / "kept", progress=lines.append
    )
    assert outcome.finished and outcome.failures == []
    table = write_steering_report(outcome, tmp_path / "out").read_text()
    for wanted in ("6.3 % (57 of 900)", "## published", "## norm_ratio", "Chi-square"):
        assert wanted in table
    assert (
        "whole latents permuted p = " in table and "With seeds as replicates" in table
    )
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["run"] for run in found["runs"]] == ["published", "norm_ratio"]
    (figures,) = found["runs"][1]["figures"]
    assert figures["amount"] == 0.5 and set(figures["groups"]) == {"none", "l2"}
    assert figures["difference"]["tests"]["permutation"] is not None
    lines.clear()
    again = run_steering_study(
        study, tmp_path / "out", artifacts=tmp_path / "kept", progress=lines.append
    )
    assert again.finished
    assert sum("results are current; kept" in line for line in lines) == 3


def test_groups_that_are_not_there_are_refused(release: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no group 'l1'; it has 'l2', 'none'"):
        run_steering_study(SteeringStudy(release=release, group="l1"), tmp_path)
