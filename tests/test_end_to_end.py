"""Two seeds trained, reloaded without this package, evaluated, and read as a table."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter
from sae_lens import SAE
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from eval_recipes.cli import app
from eval_recipes.cross_seed.output import CrossSeedEvalOutput
from eval_recipes.results.files import SUMMARY_COLUMNS, load_results
from eval_recipes.running.evaluation import schema_files
from eval_recipes.saebench.core import output as core_output
from saereg_plugin.files import folder_hashes
from saereg_plugin.owned_folder import MARK
from saereg_plugin.releases.release import Entry, Release, write_release
from tests.conftest import TRAINED_HOOK, train_release
from tests.eval_recipes.report.read_page import Page

pytestmark = pytest.mark.slow

IDS = ["sae-seed0", "sae-seed1"]
BROKEN = "sae-seed2"
EVALS = ("core", "cross_seed")


@pytest.fixture(scope="module")
def trained_release(
    tmp_path_factory: pytest.TempPathFactory, model_name: str
) -> Release:
    """Two seeds on the whole embedded model: the cross entropy is read."""
    return train_release(tmp_path_factory.mktemp("end-to-end"), model_name)


@pytest.fixture(scope="module")
def folder(trained_release: Release) -> Path:
    assert trained_release.folder is not None
    return trained_release.folder


@dataclass(frozen=True)
class Evaluated:
    out: Path
    result: Result
    frame: pd.DataFrame


@pytest.fixture(scope="module")
def with_a_broken_seed(trained_release: Release, folder: Path) -> Path:
    """A copy with a third seed whose weights are NaN and whose hashes match."""
    target = folder.parent / "broken"
    shutil.copytree(folder, target)
    sae = target / "saes" / BROKEN
    shutil.copytree(target / "saes" / IDS[0], sae)
    weights = load_file(sae / "sae_weights.safetensors")
    weights["W_dec"][3] = torch.nan
    save_file(weights, sae / "sae_weights.safetensors")
    entry = Entry(BROKEN, f"saes/{BROKEN}", "sae", 2, folder_hashes(sae))
    entries = (*trained_release.entries, entry)
    write_release(Release("e2e-broken", trained_release.model, entries, target))
    return target


@pytest.fixture(scope="module")
def evaluated(with_a_broken_seed: Path) -> Evaluated:
    """Both evaluations of two good SAEs and a broken one, by the command."""
    out = with_a_broken_seed.parent / "results"
    arguments = ["run", "--sae-release", str(with_a_broken_seed), "--out", str(out)]
    arguments += ["--heldout-tokens", "1024", "--report"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    return Evaluated(out, result, load_results(out))


def test_fresh_process_without_the_plugin_computes_the_same(
    folder: Path, activations: torch.Tensor, tmp_path: Path
) -> None:
    rows = activations[:64]
    torch.save(rows, tmp_path / "rows.pt")
    code = """
import sys, torch
from sae_lens import SAE
rows, path = torch.load(sys.argv[1]), sys.argv[2]
sae = SAE.load_from_disk(path)
assert not [m for m in sys.modules if m.startswith(("saereg", "eval_recipes"))]
torch.save((type(sae).__name__, sae.encode(rows).detach(), sae(rows).detach()), sys.argv[3])
"""
    path = folder / "saes" / IDS[0]
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "rows.pt", path, tmp_path / "out.pt"],
        check=True,
        cwd=tmp_path,
        timeout=120,
    )
    kind, acts, reconstruction = torch.load(tmp_path / "out.pt")
    assert kind == "TopKSAE"
    sae = SAE.from_pretrained(str(folder), IDS[0])
    assert (acts > 0).sum(-1).max() == 16
    torch.testing.assert_close(acts, sae.encode(rows).detach())
    torch.testing.assert_close(reconstruction, sae(rows).detach())
    assert (sae.W_dec.norm(dim=-1) - 1).abs().max() < 1e-5


def test_every_good_sae_has_every_result_and_the_broken_one_gives_status_1(
    evaluated: Evaluated,
) -> None:
    assert evaluated.result.exit_code == 1
    printed = " ".join(evaluated.result.output.split())
    for name in EVALS:
        (cause,) = re.findall(rf"failed {name} of {BROKEN}: (\w+: .*? NaN)", printed)
        assert "failed" not in cause
    assert printed.count("failed ") == 2
    found = {
        path.relative_to(evaluated.out).as_posix()
        for path in evaluated.out.rglob("*.json")
    } - {MARK}
    assert found == {
        f"{name}/e2e-broken_{sae_id}_eval_results.json"
        for name in EVALS
        for sae_id in IDS
    }


def test_the_page_of_the_run_names_the_failures(evaluated: Evaluated) -> None:
    path = evaluated.out / "report.html"
    assert evaluated.result.output.strip().endswith(f"Open {path} in a browser.")
    alerts = Page(path).alerts
    for name in EVALS:
        assert any(one.startswith(f"Error {name} of {BROKEN} failed") for one in alerts)
        missing = f"Warning {name} has no result of 1 of 3 SAEs: {BROKEN}."
        assert missing in alerts


def records(evaluated: Evaluated, name: str) -> list[dict[str, Any]]:
    """The result files of an evaluation, read strictly."""

    def refuse(token: str) -> Any:
        raise ValueError(f"{token} is not JSON")

    paths = sorted((evaluated.out / name).glob("*.json"))
    return [json.loads(path.read_text(), parse_constant=refuse) for path in paths]


OUTPUTS: dict[str, Callable[[], Any]] = {
    "core": lambda: TypeAdapter(core_output.CorrectedCoreOutput),
    "cross_seed": lambda: TypeAdapter(CrossSeedEvalOutput),
}


@pytest.mark.parametrize("name", EVALS)
def test_results_are_strict_json_in_the_shipped_schema(
    evaluated: Evaluated, name: str
) -> None:
    (path,) = schema_files(name)
    schema = json.loads(path.read_text(encoding="utf-8"))
    adapter = OUTPUTS[name]()
    found = records(evaluated, name)
    assert len(found) == 2
    for record in found:
        adapter.validate_python(record)
        assert set(schema["required"]) <= set(record) <= set(schema["properties"])
        assert record["eval_type_id"] == name
        assert record["sae_cfg_dict"]["metadata"]["hook_name"] == TRAINED_HOOK
    broken = {**found[0], "eval_result_metrics": {}}
    with pytest.raises(ValueError, match="eval_result_metrics"):
        adapter.validate_python(broken)


@pytest.mark.parametrize("name", EVALS)
def test_results_validate_with_jsonschema(evaluated: Evaluated, name: str) -> None:
    (path,) = schema_files(name)
    schema = json.loads(path.read_text(encoding="utf-8"))
    for record in records(evaluated, name):
        jsonschema.validate(record, schema)


def test_table_and_summary_agree(evaluated: Evaluated) -> None:
    frame = load_results(evaluated.out)
    assert list(frame.columns) == SUMMARY_COLUMNS
    assert set(zip(frame["sae_id"], frame["seed"], frame["group"], strict=True)) == {
        (sae_id, seed, "sae") for seed, sae_id in enumerate(IDS)
    }
    written = pd.read_csv(evaluated.out / "summary.csv")
    assert list(written.columns) == SUMMARY_COLUMNS
    assert written["metric"].tolist() == frame["metric"].tolist()
    assert written["value"].tolist() == pytest.approx(
        frame["value"].tolist(), nan_ok=True
    )
    assert frame["release"].unique().tolist() == ["e2e-broken"]


def value(evaluated: Evaluated, name: str, metric: str) -> list[float]:
    frame = evaluated.frame
    rows = frame[(frame["eval"] == name) & (frame["metric"] == metric)]
    return rows.sort_values("seed")["value"].tolist()


def test_figures_are_those_of_trained_saes(evaluated: Evaluated) -> None:
    variance = value(evaluated, "core", "corrected/explained_variance")
    assert all(0.3 < figure < 1 for figure in variance)
    assert value(evaluated, "cross_seed", "heldout/explained_variance") == variance
    assert all(0 < x <= 16 for x in value(evaluated, "core", "corrected/l0"))
    scores = value(evaluated, "core", "model_performance_preservation/ce_loss_score")
    assert all(0 < score < 1 for score in scores)
    similarity = value(evaluated, "cross_seed", "similarity/mean_max_cos")
    baseline = value(evaluated, "cross_seed", "baseline/mean_max_cos")
    assert similarity[0] == pytest.approx(similarity[1])
    assert similarity[0] > baseline[0]


def test_intervals_hold_their_values(evaluated: Evaluated) -> None:
    frame = evaluated.frame.dropna(subset=["low", "high"])
    assert len(frame) > 10
    assert (frame["low"] <= frame["high"]).all()
    assert (frame["n"] > 1).all()
