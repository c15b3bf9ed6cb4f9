"""Dated facts in the evaluation: from the command line's flag to the result and its table."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from eval_recipes.commands.flags import facts_flag
from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.sidecar import damaged_table
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.options import read_options
from eval_recipes.steering.facts.measure import COLUMNS, FACTS
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.steering.facts.test_file import OTHER, ROW, write
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

EVALUATION = Named("steering")
SCHEMA = json.loads(
    files("eval_recipes.steering")
    .joinpath("eval_output_schema_steering.json")
    .read_text()
)
FEW: dict[str, Any] = {
    "n_latents": 2,
    "prompts": ["I think"],
    "explainer_tokens": 2048,
    "new_tokens": 2,
    "calibration_pairs": 2,
    "false_positive_rate": 0.5,
    "judges": ["log_probability"],
    "amounts": [40.0, 0.0],
    "facts_controls": 3,
}
Make = Callable[..., RunContext]


@pytest.fixture(scope="session")
def model_name(calm_model_folder: Path) -> str:
    return str(calm_model_folder)


@pytest.fixture(scope="module")
def make(
    tmp_path_factory: pytest.TempPathFactory, model_name: str, activations: torch.Tensor
) -> Make:
    folder = tmp_path_factory.mktemp("facts")
    sae = tiny_sae(model_name, HOOK_NAME, activations.mean(0), 0)
    subjects = save_release(folder / "facts-release", {"s0": sae})
    models = ModelCache()

    def context(out: Path, **options: Any) -> RunContext:
        return RunContext(
            subjects=subjects,
            out=out,
            artifacts=folder / "artifacts",
            options={"steering": {**FEW, **options}},
            models=models,
        )

    return context


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "facts.jsonl", ROW, OTHER)


def result(context: RunContext) -> Path:
    return result_path(context.out, "steering", context.subjects[0].release, "s0")


def test_the_flag_is_an_option_of_steering() -> None:
    assert facts_flag(None) == []
    given = facts_flag('f "1".jsonl')
    assert read_options(given, ["steering"]) == {"steering": {"facts": 'f "1".jsonl'}}


def test_bad_facts_are_refused_before_anything_is_loaded(
    make: Make, tmp_path: Path, file: str
) -> None:
    bad = write(tmp_path / "bad.jsonl", ROW, {**OTHER, "holder": "Astana"})
    with pytest.raises(InputError, match=r"bad.jsonl', line 2: the fact has the hold"):
        EVALUATION.check(make(tmp_path, facts=bad))
    with pytest.raises(InputError, match="expected another with facts"):
        EVALUATION.check(make(tmp_path, facts=file, strength_mode="target_preact"))


def test_the_key_holds_the_facts_and_not_where_they_lie(
    make: Make, tmp_path: Path, file: str
) -> None:
    copy = write(tmp_path / "copy.jsonl", ROW, OTHER)
    key = EVALUATION.key(make(tmp_path, facts=file))
    assert key == EVALUATION.key(make(tmp_path, facts=copy))
    other = EVALUATION.key(make(tmp_path, facts="embedded"))
    assert key["facts"] != other["facts"]
    assert key != EVALUATION.key(make(tmp_path, facts=file, facts_controls=4))
    # without facts the key is that of earlier versions
    without = EVALUATION.key(make(tmp_path, facts_controls=4))
    assert not any(name.startswith("facts") for name in without)


@pytest.mark.slow
def test_a_result_has_the_facts_and_their_table(
    make: Make, tmp_path: Path, file: str
) -> None:
    context = make(tmp_path / "one", facts=file)
    assert EVALUATION.run(context) == []
    record = json.loads(result(context).read_text())
    jsonschema.validate(record, SCHEMA)
    metrics = record["eval_result_metrics"]["facts"]
    assert metrics["shift"] is not None and metrics["shift_n"] == 2
    assert metrics["shift_random_n"] == metrics["shift_random_latents_n"] == 3
    assert metrics["date_effect_n"] == 1
    assert metrics["p_random"] in (0.25, 0.5, 0.75, 1.0)
    table = FACTS.read(result(context))
    assert set(COLUMNS) == set(table.columns)
    # two facts, and one of them at the later date; per strength two latents, their sum, 2 x 3
    assert len(table) == 2 + 1 + 2 * 2 * (2 + 1 + 6)
    scores = table.set_index(["arm", "amount", "number", "fact"])
    difference = scores["later_score"] - scores["holder_score"]
    before = table.loc[table["arm"] == "before"]
    old = (before["later_score"] - before["holder_score"]).to_numpy()
    assert metrics["difference"] == pytest.approx(old.mean())
    moved = difference.loc["together", 40.0].to_numpy() - old
    assert metrics["shift"] == pytest.approx(moved.mean())
    # strength 0 changes no bit of any arm
    for arm in ("latent", "together", "random", "random_latents"):
        for _, still in difference.loc[arm, 0.0].groupby(level="number"):
            np.testing.assert_array_equal(still.to_numpy(), old)
    extra = record["eval_result_unstructured"]["facts"]
    assert [one["amount"] for one in extra["amounts"]] == [40.0, 0.0]
    assert extra["amounts"][1]["shift"] == 0.0
    assert len(extra["amounts"][0]["latents"]) == 2
    # the same seed gives the same numbers
    again = make(tmp_path / "two", facts=file)
    assert EVALUATION.run(again) == []
    assert read_result(result(again))["eval_result_metrics"]["facts"] == metrics
    FACTS.path(result(again)).unlink()
    assert "facts" in str(damaged_table(result(again), read_result(result(again))))


@pytest.mark.slow
def test_without_facts_there_is_no_table(make: Make, tmp_path: Path) -> None:
    context = make(tmp_path, amounts=[40.0])
    assert EVALUATION.run(context) == []
    record = read_result(result(context))
    assert record["eval_result_metrics"]["facts"]["shift"] is None
    assert record["eval_result_unstructured"]["facts"] is None
    assert not FACTS.path(result(context)).exists()


@pytest.mark.slow
def test_a_contrast_adds_the_difference_of_means(
    make: Make, tmp_path: Path, file: str
) -> None:
    sets = []
    for name, years in (("late", range(2012, 2022)), ("early", range(1982, 1992))):
        texts = [f"In {year} the world was changing." for year in years]
        sets.append(tmp_path / f"{name}.txt")
        sets[-1].write_text("\n".join(texts))
    context = make(
        tmp_path / "out",
        facts=file,
        select="contrast",
        contrast=[str(path) for path in sets],
        amounts=[40.0],
        samples_per_prompt=2,
    )
    assert EVALUATION.run(context) == []
    metrics = read_result(result(context))["eval_result_metrics"]["facts"]
    assert metrics["shift_mean_difference_n"] == 2
    assert metrics["p_random_mean_difference"] is not None
