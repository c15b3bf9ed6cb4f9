"""Settings of single evaluations, from the command line and from YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval_recipes.running.check import checked_data, checked_memory
from eval_recipes.running.options import read_options
from saereg_plugin.errors import InputError


def test_values_are_yaml_and_the_later_wins(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "core: {eval_batch_size_prompts: 4}\nscr: {n_values: [2, 5], fast_ablation: no}"
    )
    given = [str(file), "core.eval_batch_size_prompts=8", "scr.context_length= 32"]
    assert read_options(given, ["core", "scr"]) == {
        "core": {"eval_batch_size_prompts": 8},
        "scr": {"n_values": [2, 5], "fast_ablation": False, "context_length": 32},
    }


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("core", "neither eval.name=value nor a YAML file"),
        ("core=3", "is not eval.name=value"),
        ("core.=3", "is not eval.name=value"),
        ("core.x=[1", "the value is no YAML"),
        ("cores.x=1", "Unknown evaluation 'cores'"),
        ("scr.context_length=3", "for the evaluation 'scr', which does not run"),
        ("list.yaml", "does not map evaluations to settings"),
        ("missing.yaml", "missing.yaml"),
    ],
)
def test_bad_items_are_refused(
    item: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("[core, scr]")
    with pytest.raises(InputError, match=message):
        read_options([item], ["core"])


def test_data_and_memory_are_checked():
    assert checked_data("hub") == "hub"
    assert checked_data("embedded") == "embedded"
    with pytest.raises(InputError, match="Unknown data 'embeded'.*'embedded'"):
        checked_data("embeded")
    assert checked_memory(0.5) == 0.5
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"memory bound is {bad}"):
            checked_memory(bad)
