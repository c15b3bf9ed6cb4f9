"""The steering study: what it runs, and its table from real results on the embedded model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformer_lens import HookedTransformer

from eval_recipes.chat import KEY_VARIABLE
from eval_recipes.results.subject import Failure
from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.options import make_config
from eval_recipes.steering.stats.logistic import SEPARATED, Coefficient, LogisticFit
from eval_recipes.steering.stats.matched import PooledStability, Support
from eval_recipes.studies.framework.study_folder import KIND, mark_folder, study_folder
from eval_recipes.studies.steering.report import grid_text, write_steering_report
from eval_recipes.studies.steering.runs import (
    RATIOS,
    SteeringOutcome,
    SteeringRun,
    SteeringStudy,
    runs_of,
    sweep_of,
)
from eval_recipes.studies.steering.sections import section_of
from eval_recipes.studies.steering.statements import stability_sentence
from eval_recipes.studies.steering.study import NAME, run_steering_study
from eval_recipes.tables.table import cell, digits
from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_hashes, write_json
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import MANIFEST, Entry, Release, write_release
from saereg_plugin.sweeps.checkpoint import SWEEP_FILE, settled
from tests.conftest import HOOK_NAME
from tests.eval_recipes.chat.openai_server import KEY, serving
from tests.eval_recipes.tiny_saes import tiny_sae

SMALL = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def model_name(cut_model_folder: Path) -> str:
    """Four layers write as many texts as thirty, and are hooked in the same way."""
    return str(cut_model_folder)


def test_the_published_setting_comes_first_and_the_grid_is_the_papers() -> None:
    published, ratio = runs_of(SteeringStudy(), SMALL)
    config = make_config(dict(published.options))
    assert (config.strength_mode, config.amounts) == ("fixed", [5.0])
    assert (config.n_latents, len(config.prompts), config.new_tokens) == (300, 3, 30)
    assert (config.greedy, config.positions) == (False, "generation")
    assert (config.temperature, config.top_p) == (0.7, 0.9)
    assert tuple(ratio.options["amounts"]) == RATIOS
    # several strengths, so fewer latents
    assert ratio.options["n_latents"] == 50
    (_, few) = runs_of(SteeringStudy(n_latents=6), SMALL)
    assert few.options["n_latents"] == 6
    (_, known) = runs_of(SteeringStudy(paper_norm=10.0), SMALL)
    assert known.options["amounts"] == [0.5]
    # on the paper's own model alpha is the paper's, whatever the scale
    for name in ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"):
        assert len(runs_of(SteeringStudy(), name)) == 1
    assert len(runs_of(SteeringStudy(scale="paper"), "gpt2")) == 2
    grid = runs_of(SteeringStudy(grid=True), SMALL)[2:]
    assert len(grid) == 12 and sum(len(run.options["amounts"]) for run in grid) == 36
    assert len({run.name for run in grid}) == 12
    for run in grid:
        assert make_config(dict(run.options)).n_latents == 50 and run.seeds == (0,)
        assert run.grid
    later = runs_of(SteeringStudy(grid=True), SMALL, grid_seed=4)
    assert later[0].seeds is None and {run.seeds for run in later[2:]} == {(4,)}
    everyone = runs_of(SteeringStudy(grid=True), SMALL, grid_seed=None)
    assert {run.seeds for run in everyone} == {None}


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_norm_that_is_none_is_refused(norm: float) -> None:
    with pytest.raises(InputError, match="expected a number above 0"):
        SteeringStudy(paper_norm=norm)


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


def fit(low: float, high: float) -> LogisticFit:
    value = (low + high) / 2
    found = Coefficient("stability", value, 0.1, 0.1, low, high, 0.5)
    return LogisticFit({"stability": found}, 30, 10)


def pooled(low: float, high: float, varied: int = 10) -> PooledStability:
    support = Support(90, 0.0, varied, 3 * varied, 7, 3 * (90 - varied), 5)
    # what is found without groups says the opposite, and does not decide
    return PooledStability(fit(-high, -low), fit(low, high), None, support)


def test_statements_follow_from_intervals() -> None:
    assert stability_sentence(pooled(0.2, 0.9)).startswith("Held here: more stable")
    assert "without groups: -.550 [-.900, -.200]" in stability_sentence(
        pooled(0.2, 0.9)
    )
    opposite = stability_sentence(pooled(-0.9, -0.2))
    assert opposite.startswith("The opposite held here")
    assert stability_sentence(pooled(-0.9, 0.2)).startswith("Not decided here")
    assert stability_sentence(None).startswith("Not measured here")
    empty = LogisticFit({}, 3, 3, SEPARATED)
    nothing = replace(pooled(0.1, 0.2), within=empty)
    for said in (stability_sentence(nothing), stability_sentence(pooled(0.2, 0.9))):
        assert "Of 90 latents 10 have another stability" in said
        assert "7 of 30 succeeded, of the others 5 of 240." in said
    assert SEPARATED in stability_sentence(nothing)
    few = stability_sentence(pooled(0.2, 0.9, varied=9))
    assert few.startswith("Too few to decide here: whether more stable")
    assert cell(Interval(0.5, None, None, 3)) == ".500" and cell(None) == "-"
    assert cell(Interval(0.5, 0.25, 0.75, 3)) == ".500 [.250, .750]"


def trained(
    folder: Path, model_name: str, activations: torch.Tensor, seeds: tuple[int, ...]
) -> str:
    """Two groups of SAEs that nobody trained."""
    entries: list[Entry] = []
    for number, (group, seed) in enumerate(
        (g, s) for g in ("none", "l2") for s in seeds
    ):
        sae_id = f"{group}-s{seed}"
        sae = tiny_sae(model_name, HOOK_NAME, activations.mean(0), number)
        sae.save_model(str(folder / sae_id))
        hashes = folder_hashes(folder / sae_id)
        entries.append(Entry(sae_id, sae_id, group=group, seed=seed, files=hashes))
    made = Release(folder.name, model_name, tuple(entries), folder=folder)
    write_release(made)
    register_release(folder)
    return str(folder)


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
    return trained(folder, model_name, activations, (0, 1))


def assert_the_grid_is_one_table(study: SteeringStudy, results: Path) -> None:
    """The table of a grid of the runs that are there, against their own figures."""
    options = {"greedy": False, "positions": "all"}
    names = ("published", "norm_ratio")
    found = [
        (SteeringRun(name, options, grid=True), section_of(study, name, results / name))
        for name in names
    ]
    text = grid_text(study, found)
    rows = [line for line in text.split("\n") if "| sampled | all |" in line]
    assert len(rows) == 2 and rows[1].startswith("| norm_ratio 0.5 |")
    for row, (_, section) in zip(rows, found, strict=True):
        (one,) = section.compared
        for rates in one.rates:
            success, beyond = rates.rates.success, rates.rates.over_random
            assert success is not None
            assert f"| {digits(success.value)}; {cell(beyond)} |" in row
            assert f"| {cell(rates.loss)} |" in row
    exceeding = [
        sum(
            beyond is not None and (beyond.low or 0) > 0
            for _, section in found
            for beyond in [section.compared[0].rates[k].rates.over_random]
        )
        for k in range(2)
    ]
    assert (
        f"- log_probability: {exceeding[0]} of 2 with none, {exceeding[1]} of 2 with l2"
        in text
    )
    assert (
        "4 candidates of each SAE; with an explanation and a strength: none 2 SAEs"
        in text
    )


@pytest.mark.slow
def test_a_small_study_in_full(release: str, tmp_path: Path) -> None:
    study = SteeringStudy(
        release=release,
        n_latents=4,
        paper_norm=10.0,
        heldout_tokens=1024,
        settings={
            "judges": ["log_probability"],
            "explainer_tokens": 4096,
            "new_tokens": 3,
            "calibration_pairs": 4,
            # so many texts succeed that there is something to compare, whatever they say
            "false_positive_rate": 0.5,
        },
    )
    lines: list[str] = []
    outcome = run_steering_study(
        study, tmp_path / "out", artifacts=tmp_path / "kept", progress=lines.append
    )
    assert outcome.finished and outcome.failures == []
    assert outcome.table == tmp_path / "out" / "table.md"
    table = (tmp_path / "out" / "table.md").read_text()
    for wanted in ("6.3 % (57 of 900)", "## published", "## norm_ratio", "chi-square"):
        assert wanted in table
    assert "permutation p = " in table and "Thresholds, each common" in table
    assert (tmp_path / "out" / "steering.png").is_file()
    assert outcome.pages == [
        tmp_path / "out" / "results" / run / "report.html"
        for run in ("published", "norm_ratio")
    ]
    assert all("Manifest hash" in page.read_text() for page in outcome.pages)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["run"] for run in found["runs"]] == ["published", "norm_ratio"]
    (figures,) = found["runs"][1]["figures"]
    assert figures["amount"] == 0.5 and set(figures["groups"]) == {"none", "l2"}
    assert figures["difference"]["tests"]["permutation"] is not None
    assert_the_grid_is_one_table(study, tmp_path / "out" / "results")
    lines.clear()
    again = run_steering_study(
        study, tmp_path / "out", artifacts=tmp_path / "kept", progress=lines.append
    )
    assert again.finished
    assert sum("results are current and kept" in line for line in lines) == 3
    with pytest.raises(InputError, match="holds the study 'steering' at scale 'small'"):
        run_steering_study(SteeringStudy(scale="paper"), tmp_path / "out")


@pytest.mark.slow
def test_all_runs_share_one_budget(
    model_name: str,
    activations: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serving() as server:
        server.reply = lambda _: "3"
        study = SteeringStudy(
            # of one seed, so that stability is not measured
            release=trained(tmp_path / "budget-study", model_name, activations, (0,)),
            n_latents=3,
            paper_norm=10.0,
            settings={
                "judges": ["chat"],
                "judge_model": "judge",
                "judge_base_url": server.url,
                "judge_max_calls": 5,
                "explainer_tokens": 4096,
                "new_tokens": 3,
                "calibration_pairs": 1,
            },
        )
        lines: list[str] = []
        outcome = run_steering_study(
            study, tmp_path / "out", artifacts=tmp_path / "kept", progress=lines.append
        )
        assert len(server.chats) == 5
    assert {name: len(found) for name, found in outcome.by_run.items()} == {
        "published": 2,
        "norm_ratio": 2,
    }
    assert all("5 of 5 calls" in one.cause for one in outcome.failures)
    assert sum(line.startswith("failed steering of ") for line in lines) == 4
    assert outcome.table is not None and "Not complete" in outcome.table.read_text()


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize("left", [("none",), ()])
def test_a_group_that_training_lost_ends_in_a_report(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    folder = open_owned(tmp_path, KIND).path / "release"
    open_owned(folder, "release").claim([SWEEP_FILE, MANIFEST])
    sweep = settled(sweep_of("small"), folder)
    write_json(folder / SWEEP_FILE, sweep.to_dict())
    entries: list[Entry] = []
    for sae_id, group, seed in ((f"{g}-seed{s}", g, s) for g in left for s in range(3)):
        saved = folder / "saes" / sae_id
        saved.mkdir(parents=True)
        (saved / "cfg.json").write_text('{"d_in": 1, "d_sae": 1}')
        save_file({"W_dec": torch.zeros(1, 1)}, saved / "sae_weights.safetensors")
        files = folder_hashes(saved)
        entries.append(Entry(sae_id, f"saes/{sae_id}", group, seed, files))
    line = "l2-seed0: loss is not finite in step 7; no checkpoint was written before"
    trained = Release(
        "lost",
        sweep.model,
        tuple(entries),
        folder=folder,
        provenance={"stopped": [line]},
    )
    write_release(trained)
    told: list[str] = []
    outcome = run_steering_study(SteeringStudy(), tmp_path, progress=told.append)
    assert outcome.finished and outcome.troubled and outcome.runs == []
    assert outcome.table is not None
    table = outcome.table.read_text()
    assert f"- stopped in training: {line}" in table
    for group in {"none", "l2"} - set(left):
        lost = f"every SAE of group '{group}', so nothing was steered"
        assert f"- stopped in training: {lost}" in table
        assert f"Stopped in training: {lost}" in told
    assert len(outcome.stopped) == 3 - len(left)


@pytest.mark.parametrize("text", ["", "3", "[steering, small]"])
def test_a_mark_that_says_nothing_is_one_clear_error(tmp_path: Path, text: str) -> None:
    with study_folder(tmp_path, NAME, "small"):
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(
        InputError, match="damaged.* It says which study the folder holds"
    ):
        run_steering_study(SteeringStudy(), tmp_path)


def test_a_folder_is_of_one_study_and_one_process(tmp_path: Path) -> None:
    mnist = tmp_path / "other"
    with study_folder(mnist, "temporal", "small"):
        mark_folder(mnist, "temporal", "small")
    with pytest.raises(
        InputError, match="holds the study 'temporal' .* not 'steering'"
    ):
        run_steering_study(SteeringStudy(), mnist)
    busy = tmp_path / "busy"
    with (
        study_folder(busy, NAME, "small"),
        pytest.raises(InputError, match="in use by another process"),
    ):
        run_steering_study(SteeringStudy(), busy)
    # what is refused marks nothing
    with pytest.raises(InputError, match="trains no group 'l1'"):
        run_steering_study(SteeringStudy(group="l1"), busy)
    assert not (busy / "study.json").exists()
    with study_folder(busy, "temporal", "small"):
        assert (busy / ".lock").exists()


def test_a_stopped_sae_is_told(tmp_path: Path) -> None:
    line = "l2-seed2: loss is not finite in step 7; no checkpoint was written before"
    outcome = SteeringOutcome(SteeringStudy(), finished=True, stopped=[line])
    assert outcome.troubled
    table = write_steering_report(outcome, tmp_path).read_text()
    assert f"- stopped in training: {line}" in table
    assert json.loads((tmp_path / "results.json").read_text())["stopped"] == [line]


def test_a_run_without_results_costs_no_other_section(tmp_path: Path) -> None:
    runs = runs_of(SteeringStudy(), SMALL)
    failure = Failure("steering", "l2-s0", "InputError: nothing to steer")
    outcome = SteeringOutcome(
        SteeringStudy(),
        runs,
        finished=True,
        failures=[failure],
        by_run={"published": [failure]},
    )
    table = write_steering_report(outcome, tmp_path).read_text()
    assert table.count("Not complete: ") == 2 and "## norm_ratio" in table
    assert "- steering of l2-s0: InputError: nothing to steer" in table
    found = json.loads((tmp_path / "results.json").read_text())
    assert [run["failed"] for run in found["runs"]] == [["l2-s0"], []]
    assert "does not exist" in found["runs"][0]["not_complete"]
    # a run of the grid has no section of its own
    whole = runs_of(SteeringStudy(grid=True), SMALL)
    grid = SteeringOutcome(SteeringStudy(grid=True), whole, finished=True)
    table = write_steering_report(grid, tmp_path).read_text()
    assert table.count("## grid") == 1 and table.count("Not complete: ") == 14
    assert "grid-fixed-greedy-all: Not complete: " in table.partition("## grid")[2]
