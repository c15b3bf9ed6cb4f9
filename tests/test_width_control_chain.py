"""From two trainings to the width-matched comparison and its pictures, by the commands alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from sae_lens import SAE
from typer.testing import CliRunner

from eval_recipes.cli import app
from saereg_plugin.metrics import alive_mask
from saereg_plugin.releases.release import read_release
from tests.sweeps.tiny import SAE as TINY
from tests.sweeps.tiny import fields

pytestmark = pytest.mark.slow

AT_EQUAL = "regularised - matched at equal explained variance"


def command(*arguments: str | Path) -> str:
    """Run ``saereg-bench`` and return what it prints; it must succeed."""
    result = CliRunner().invoke(
        app, [str(argument) for argument in arguments], env={"COLUMNS": "240"}
    )
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def median_alive(release: Path, group: str) -> int:
    counts: list[int] = []
    for entry in read_release(release).entries:
        if entry.group == group:
            sae: SAE[Any] = SAE.load_from_disk(release / entry.path)
            counts.append(int(alive_mask(sae.W_enc.T, sae.W_dec).sum()))
    assert len(counts) == 2
    return statistics.median_low(counts)


def test_train_match_run_table_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, matched = tmp_path / "chain", tmp_path / "chain-matched"
    results = tmp_path / "results"
    penalty = {"name": "weight_penalty", "coefficient": 1.0}
    sweep = fields(
        # a quarter of the latents begins dead, so that the control is narrower
        sae={**TINY, "initialization": "untied"},
        groups={"none": {}, "l2": {"regularizers": [penalty]}},
        tokens=40 * 256,
        lr=1e-2,
    )
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(sweep))

    command("train", "--config", config, "--out", release)
    said = command("train", "--match-alive", release, "--out", matched)
    width = median_alive(release, "l2")
    assert f"l2-matched: {width} latents, as many as are alive in chain/l2." in said
    (control,) = {entry.group for entry in read_release(matched).entries}
    assert read_release(matched).provenance["matched_to"] == {control: "chain/l2"}
    for entry in read_release(matched).entries:
        sae: SAE[Any] = SAE.load_from_disk(matched / entry.path)
        assert sae.cfg.d_sae == width < int(TINY["d_sae"])

    for folder in (release, matched):
        command(
            *("run", "--sae-release", folder, "--out", results),
            *("--evals", "cross_seed", "--heldout-tokens", "1024"),
        )
    assert len([*(results / "cross_seed").glob("*.json")]) == 6
    assert len([*(results / "cross_seed").glob("*_stability.parquet")]) == 6

    printed = command("table", results, "--widths")
    assert "regularised - matched" in printed
    written = json.loads((results / "width_control.json").read_text())
    found = {(c["kind"], c["group"], c["other"]) for c in written}
    assert found == {
        ("regularised - matched", "chain/l2", f"chain-matched/{control}"),
        (AT_EQUAL, "chain/l2", f"chain-matched/{control}"),
        ("regularised - wide", "chain/l2", "chain/none"),
        ("matched - wide", f"chain-matched/{control}", "chain/none"),
    }
    for item in written:
        # two seeds: whatever is compared pair by pair is over latents, and so labelled
        if [0, 1] in [value["seeds"] for value in item["values"]]:
            assert item["interval_over"] not in ("seeds", "seed pairs")
            assert item["reason"]

    monkeypatch.chdir(results)
    printed = command("table", ".", "--widths")
    assert "regularised - matched" in printed and "Not written" in printed

    drawn = command("plot", results, "--cross-seed", "--out", tmp_path / "plots")
    names = {path.name for path in (tmp_path / "plots").glob("[!.]*")}
    assert names == {
        "encoder_decoder_cosine.png",
        "matched_similarity.png",
        "shared_fraction.png",
        "unstable_overlap.png",
    }
    for name in names:
        assert name in drawn
        with Image.open(tmp_path / "plots" / name) as image:
            image.load()
            assert image.width > 500
