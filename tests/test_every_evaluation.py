"""Every evaluation of trained SAEs by the command; the same figures in every process and order."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from jsonschema.validators import validator_for
from pydantic import TypeAdapter
from rich.console import Console
from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput
from sae_bench.evals.autointerp.eval_output import AutoInterpEvalOutput
from sae_bench.evals.base_eval_output import BaseEvalOutput
from sae_bench.evals.core.eval_output import CoreEvalOutput
from sae_bench.evals.meta_structure.eval_output import MetaStructureEvalOutput
from sae_bench.evals.scr_and_tpp.eval_output import ScrEvalOutput, TppEvalOutput
from sae_bench.evals.sparse_probing.eval_output import SparseProbingEvalOutput
from sae_bench.evals.sparse_probing_sae_probes.eval_output import (
    SparseProbingSaeProbesEvalOutput,
)
from transformer_lens import HookedTransformer

from eval_recipes.chat import KEY_VARIABLE
from eval_recipes.registry import load_evaluation
from eval_recipes.results.files import load_results, read_result, result_files
from eval_recipes.results.headlines import headline_metrics
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import schema_files
from eval_recipes.running.run import run_evals, subjects_of
from eval_recipes.saebench.core.output import NULLABLE
from eval_recipes.tables.run_table import print_table
from saereg_plugin.releases.release import Release
from tests.eval_recipes.chat.openai_server import KEY, JudgeServer, serving
from tests.eval_recipes.running import every_eval
from tests.eval_recipes.running.every_eval import EVALS, OPTIONS, figures, write_options
from tests.eval_recipes.tiny_saes import save_release

pytestmark = pytest.mark.slow

UPSTREAM: dict[str, Any] = {
    "core": CoreEvalOutput,
    "sparse_probing": SparseProbingEvalOutput,
    "sae_probes": SparseProbingSaeProbesEvalOutput,
    "scr": ScrEvalOutput,
    "tpp": TppEvalOutput,
    "absorption": AbsorptionEvalOutput,
    "autointerp": AutoInterpEvalOutput,
    "meta_structure": MetaStructureEvalOutput,
}
"""SAEBench's own class of each of its evaluations; ours have its base class alone."""
IDS = ["sae-seed0", "sae-seed1"]
BROKEN = "broken"
TOKENS = {"explainer": "tokens"}
JUDGE = {"judge_model": "judge", "judge_backoff_seconds": 0.01}


@dataclass(frozen=True)
class Runs:
    """Folders of results of the same SAEs."""

    command: Path
    """By the command, in a process of its own, nothing kept from before."""
    judged: Path
    """autointerp with a judge, in that process, by another artefact folder."""
    reversed: Path
    """In another process with a third artefact folder, in the other order, next to a broken SAE."""
    resumed: Path
    """A copy of it that lacks the results of one SAE, resumed in the same process."""

    def log(self, name: str) -> Path:
        """What a run next to the broken SAE told."""
        return self.command.parent / f"{name}.log"


def broken_release(folder: Path, trained: Path) -> Path:
    """A release with a copy of a trained SAE whose weights are NaN."""
    (subject, *_) = subjects_of(str(trained))
    sae: Any = subject.load()
    for weight in (sae.W_enc, sae.W_dec):
        weight.data[:] = float("nan")
    save_release(folder, {BROKEN: sae})
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with serving() as judge:
        yield judge


@pytest.fixture(scope="module")
def release_folder(trained_release: Release) -> Path:
    assert trained_release.folder is not None
    return trained_release.folder


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    release_folder: Path,
    server: JudgeServer,
) -> Runs:
    folder = tmp_path_factory.mktemp("every-evaluation")
    found = Runs(
        *(folder / name for name in ("command", "judged", "reversed", "resumed"))
    )
    common = {"release": str(release_folder), "autointerp": TOKENS}
    judged = {"evals": ["autointerp"], "sae_ids": IDS, "autointerp": JUDGE}
    backwards: dict[str, Any] = {
        "evals": EVALS,
        "sae_ids": IDS[::-1],
        "artifacts": folder / "b",
    }
    backwards |= {"broken": str(broken_release(folder / "broken", release_folder))}
    command = [
        *("run", "--sae-release", release_folder, "--evals", ",".join(EVALS)),
        *("--out", found.command, "--artifacts", folder / "a", "--offline"),
        *("--heldout-tokens", every_eval.HELDOUT_TOKENS, "--device", "cpu"),
        *("--options", write_options(folder / "options.yaml")),
    ]
    _elsewhere(
        folder / "first.json",
        [{**common, **judged, "artifacts": folder / "c", "out": found.judged}],
        command,
        server,
    )
    _elsewhere(
        folder / "second.json",
        [
            {**common, **backwards, "out": found.reversed, "log": found.log("first")},
            {
                **common,
                **backwards,
                **{"out": found.resumed, "log": found.log("resumed")},
                **{"copy_of": found.reversed, "without": IDS[0]},
            },
        ],
        ["list"],
        server,
    )
    return found


def _elsewhere(
    path: Path,
    settings: list[dict[str, Any]],
    command: Sequence[object],
    server: JudgeServer,
) -> None:
    """Run a command and then what the settings say, in a process of their own."""
    path.write_text(json.dumps(settings, default=str))
    environment = {
        **os.environ,
        # Sums depend on the number of threads.
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "OPENAI_BASE_URL": server.url,
        KEY_VARIABLE: KEY,
    }
    module = [sys.executable, "-m", "tests.eval_recipes.running.every_eval", str(path)]
    _run([*module, *map(str, command)], environment)


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_every_evaluation_of_every_sae_has_a_valid_result(runs: Runs) -> None:
    records = {
        (path.parent.name, record["sae_lens_id"]): record
        for path in result_files(runs.command)
        for record in [read_result(path)]
    }
    assert set(records) == {(name, sae_id) for name in EVALS for sae_id in IDS}
    for (name, _), record in records.items():
        TypeAdapter(UPSTREAM.get(name, BaseEvalOutput[Any, Any, Any])).validate_python(
            _filled(record)
        )
        jsonschema.validate(record, schema_of(name))
        assert record["sae_lens_release_id"] == "e2e"


@pytest.mark.parametrize("name", EVALS)
def test_our_validator_refuses_what_upstreams_takes(name: str, runs: Runs) -> None:
    record = read_result(next((runs.command / name).glob("*.json")))
    # the whole of it is validated above; here once for every change
    record["eval_result_details"] = record["eval_result_details"][:1]
    schema = schema_of(name)
    jsonschema.validate(record, schema)
    validator = validator_for(schema)(schema)
    metrics = record["eval_result_metrics"]
    category = next(iter(metrics))
    wrong: list[dict[str, Any]] = [
        {"eval_type_id": "nonsense"},
        {"surplus": 1},
        {"eval_result_metrics": {**metrics, "surplus": {}}},
        {
            "eval_result_metrics": {
                **metrics,
                category: {**metrics[category], "surplus": 1.0},
            }
        },
        {"eval_config": {**record["eval_config"], "surplus": 1}},
    ]
    config = record["eval_config"]
    settings = strict_numbers(config, schema["properties"]["eval_config"], schema)
    assert settings
    wrong += [{"eval_config": {**config, field: None}} for field in settings]
    groups = definition(schema["properties"]["eval_result_metrics"], schema)
    wrong += [
        {"eval_result_metrics": {**metrics, group: {**values, field: None}}}
        for group, values in metrics.items()
        for field in strict_numbers(values, groups["properties"][group], schema)
    ]
    for change in wrong:
        assert not validator.is_valid({**record, **change}), change


def definition(reference: Any, schema: Any) -> Any:
    """What a schema says of the object behind a reference."""
    return schema["$defs"][reference["$ref"].rpartition("/")[2]]


def strict_numbers(values: Any, reference: Any, schema: Any) -> list[str]:
    """Fields that must have a number."""
    fields = definition(reference, schema)["properties"]
    return [f for f in values if fields[f].get("type") in ("number", "integer")]


def schema_of(name: str) -> Any:
    """The schema that ships for an evaluation."""
    # autointerp has one for each explainer; here it is run with the tokens' explainer
    path = max(schema_files(name), key=lambda path: path.stem.endswith("_tokens"))
    return json.loads(path.read_text(encoding="utf-8"))


def _filled(record: dict[str, Any]) -> dict[str, Any]:
    """The record as upstream would write it: -1 for core's figures without a value."""
    filled = copy.deepcopy(record)
    if record["eval_type_id"] == "core":
        for detail in filled["eval_result_details"]:
            missing = [name for name in NULLABLE if detail[name] is None]
            detail.update(dict.fromkeys(missing, -1.0))
    return filled


def test_figures_are_those_of_trained_saes(runs: Runs) -> None:
    frame = load_results(runs.command)
    values = frame.groupby("metric")["value"].mean()
    # A dictionary that learnt nothing reads a class no better than a coin.
    assert values["sae/sae_test_accuracy"] > 0.5
    assert 0 < values["corrected/explained_variance"] < 1


def test_the_table_after_a_run_has_a_figure_of_every_evaluation(runs: Runs) -> None:
    frame = load_results(runs.command)
    assert {metric.eval for metric in headline_metrics(frame)} == set(frame["eval"])
    console = Console(record=True, width=80)
    print_table(frame, console)
    printed = console.export_text()
    for title in (
        "expl. var.",
        "SP random",
        "TPP@10",
        "absorption",
        "aligned",
        "log prob.",
    ):
        assert title in printed


def test_another_process_and_order_give_equal_figures(runs: Runs) -> None:
    first, second = figures(runs.command), figures(runs.reversed)
    assert set(first) == {f"{name} {sae_id}" for name in EVALS for sae_id in IDS}
    assert set(second) == set(first)
    different = [name for name in first if first[name] != second[name]]
    assert different == []


@pytest.mark.parametrize("name", EVALS)
def test_one_failing_sae_does_not_stop_the_others(name: str, runs: Runs) -> None:
    failed = json.loads(runs.log("first").read_text())["failed"]
    assert failed[name] == BROKEN
    found = [key for key in figures(runs.reversed) if key.split()[0] == name]
    assert sorted(found) == [f"{name} {sae_id}" for sae_id in IDS]


@pytest.mark.parametrize("name", EVALS)
def test_a_resumed_run_keeps_and_redoes(name: str, runs: Runs) -> None:
    (told,) = (
        line
        for line in json.loads(runs.log("resumed").read_text())["told"]
        if line.startswith(f"{name}:")
    )
    if load_evaluation(name).over_groups:
        assert "0 of 3 results are current; 3 to do (1 depends on those" in told
    else:
        assert "1 of 3 results are current; 2 to do (2 missing)" in told


def test_one_sae_alone_on_warm_caches_has_equal_figures(runs: Runs) -> None:
    every, resumed = figures(runs.command), figures(runs.resumed)
    assert set(resumed) == set(every)
    different = [name for name in resumed if resumed[name] != every[name]]
    assert different == []


def test_a_deterministic_judge_gives_equal_figures_in_every_process(
    runs: Runs,
    release_folder: Path,
    server: JudgeServer,
    model: HookedTransformer,
    calm_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    context = RunContext(
        subjects=subjects_of(str(release_folder))[::-1],
        out=tmp_path / "out",
        artifacts=tmp_path / "artifacts",
        data="embedded",
        options={"autointerp": {**OPTIONS["autointerp"], **JUDGE}},
    )
    context.models.hold(model, str(calm_model_folder), dtype="float32", device="cpu")
    assert run_evals(["autointerp"], context).failures == []
    here, there = figures(context.out), figures(runs.judged)
    assert set(here) == set(there) == {f"autointerp {sae_id}" for sae_id in IDS}
    assert here == there
