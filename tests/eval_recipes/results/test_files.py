"""Result files: paths, strictness, the tidy table."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalConfig,
    BaseEvalOutput,
    BaseMetricCategories,
    BaseResultDetail,
)
from sae_lens import TopKSAE, TopKSAEConfig

from eval_recipes.results.files import (
    SUMMARY_COLUMNS,
    NonFiniteError,
    base_fields,
    check_unique_paths,
    load_results,
    read_result,
    result_path,
    unstructured,
    write_result,
    write_summary,
)
from eval_recipes.results.subject import Subject
from eval_recipes.running.heldout import HeldOut
from eval_recipes.saebench.core.main import corrected_metrics
from eval_recipes.saebench.core.output import CorrectedMetrics
from saereg_plugin.errors import InputError

SUBJECT = Subject("lab/run", "layer/k8", "k8", 3)


@dataclass
class Config(BaseEvalConfig):
    threshold: float = 0.5


@dataclass
class Categories(BaseMetricCategories):
    corrected: CorrectedMetrics = Field(title="Corrected")


@dataclass
class Output(BaseEvalOutput[Config, Categories, BaseResultDetail]):
    eval_config: Config
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: Categories
    eval_type_id: str = "tiny"


def heldout(**changes: float) -> HeldOut:
    figures = {
        name: 1 if kind == "int" else 0.5
        for name, kind in HeldOut.__annotations__.items()
    }
    return HeldOut(
        **{
            **figures,
            "explained_variance_ci_low": 0.25,
            "explained_variance_n": 7,
            **changes,
        }
    )  # type: ignore[arg-type]


def output(extra: dict[str, object] | None = None, **changes: float) -> Output:
    sae = TopKSAE(TopKSAEConfig(d_in=4, d_sae=8, k=2))
    return Output(
        **base_fields(SUBJECT, sae),
        eval_config=Config(),
        eval_result_metrics=Categories(corrected_metrics(heldout(**changes))),
        eval_result_unstructured=unstructured(SUBJECT, **(extra or {})),
    )


def test_path_is_the_one_saebench_uses():
    path = result_path(Path("out"), "core", "lab/run", "layer/k8")
    assert path == Path("out/core/lab_run_layer_k8_eval_results.json")


def test_colliding_paths_are_refused_by_name():
    pair = [Subject("a/b", "c", "g", 0), Subject("a", "b/c", "g", 1)]
    with pytest.raises(InputError, match=r"'c' of release 'a/b'.*'b/c' of release 'a'"):
        check_unique_paths(pair)
    check_unique_paths([*pair[:1], Subject("a", "b", "g", 1)])


def test_a_metric_that_is_nan_is_named_and_nothing_written(tmp_path: Path):
    target = tmp_path / "x_eval_results.json"
    with pytest.raises(NonFiniteError, match="eval_result_metrics/corrected/mse"):
        write_result(target, output(mse=math.nan))
    assert list(tmp_path.iterdir()) == []


def test_nan_outside_metrics_becomes_null(tmp_path: Path):
    path = write_result(tmp_path / "x.json", output({"rate": [1.0, math.inf]}))
    assert read_result(path)["eval_result_unstructured"]["rate"] == [1.0, None]


def test_a_metric_of_core_that_is_minus_one_has_no_value(tmp_path: Path):
    for kind, expected in (("core", None), ("tiny", -1)):
        path = write_result(tmp_path / f"{kind}_eval_results.json", output(mse=-1.0))
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "eval_type_id": kind}))
        read = read_result(path)
        assert read["eval_result_metrics"]["corrected"]["mse"] == expected


def test_provenance_does_not_depend_on_the_working_folder(tmp_path: Path):
    record = read_result(write_result(tmp_path / "x.json", output()))
    assert record["sae_bench_commit_hash"].startswith("sae-bench==")
    assert record["sae_lens_id"] == "layer/k8"
    assert record["sae_cfg_dict"]["architecture"] == "topk"
    assert json.loads(json.dumps(record["sae_cfg_dict"])) == record["sae_cfg_dict"]


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-20], lambda t: t.replace("0.25", "NaN"), lambda _: "[]"]
)
def test_a_broken_file_is_named_by_reader_and_table(tmp_path: Path, damage):  # type: ignore[no-untyped-def]
    path = write_result(result_path(tmp_path, "tiny", "r", "s"), output())
    path.write_text(damage(path.read_text()))
    for reader in (lambda: read_result(path), lambda: load_results(tmp_path)):
        with pytest.raises(InputError, match=path.name):
            reader()


def test_table_is_tidy_and_folds_intervals(tmp_path: Path):
    write_result(result_path(tmp_path, "tiny", "lab/run", "layer/k8"), output())
    frame = load_results(tmp_path)
    assert list(frame.columns) == SUMMARY_COLUMNS
    row = frame[frame.metric == "corrected/explained_variance"].iloc[0]
    assert (row.value, row.low, row.high, row.n) == (0.5, 0.25, 0.5, 7)
    assert (row.group, row.seed, row["eval"]) == ("k8", 3, "tiny")
    assert not frame.metric.str.contains("_ci_").any()
    written = write_summary(tmp_path).read_text().splitlines()
    assert written[0] == ",".join(SUMMARY_COLUMNS)
    assert len(written) == len(frame) + 1


def test_missing_folder_is_refused_and_empty_folder_is_empty(tmp_path: Path):
    assert load_results(tmp_path).empty
    with pytest.raises(InputError, match="no-such"):
        load_results(tmp_path / "no-such")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"mse": 0.5', '"mse": 1e999', "1e999 is no finite number"),
        ('"mse": 0.5', '"mse": true', "'corrected/mse' = True; expected a finite n"),
        ('"mse": 0.5', f'"mse": {"9" * 400}', "'corrected/mse' = 99"),
        ('"mse": 0.5', f'"mse": {"9" * 9000}', "cannot be read .Exceeds"),
        ('"mse": 0.5', f'"mse": {"[" * 200_000}', "recursion"),
        ('_n": 7', '_n": 7.5', "explained_variance_n' = 7.5; expected a whole number"),
        ('"seed": 3', '"seed": "3"', "'seed' = 3; expected an integer"),
        ('"sae_lens_id": "layer/k8"', '"sae_lens_id": 8', "'sae_lens_id' = 8; exp"),
    ],
)
def test_what_is_no_finite_number_is_refused_with_the_files_name(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = write_result(result_path(tmp_path, "tiny", "r", "s"), output())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_results(tmp_path)
    assert path.name in str(caught.value) and len(str(caught.value)) < 600


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x_eval_results.json")
    with pytest.raises(InputError, match="x_eval_results.json' is no regular file"):
        load_results(tmp_path)


def test_a_name_with_a_leading_dot_is_read(tmp_path: Path) -> None:
    write_result(result_path(tmp_path, "tiny", ".r", "s"), output())
    assert not load_results(tmp_path).empty


def test_two_different_results_of_one_sae_are_refused(tmp_path: Path) -> None:
    first = write_result(tmp_path / "a_eval_results.json", output())
    second = tmp_path / "b_eval_results.json"
    second.write_bytes(first.read_bytes())
    assert load_results(tmp_path)["sae_id"].tolist()[:2] == ["layer/k8"] * 2
    assert not load_results(tmp_path).duplicated("metric").any()
    second.write_text(first.read_text().replace("0.25", "0.125"))
    with pytest.raises(InputError, match=r"a_eval_results.*b_eval_results.*different"):
        load_results(tmp_path)


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    path = write_result(tmp_path / "a_eval_results.json", output())
    path.write_text(path.read_text().replace('"layer/k8"', r'"a\u001b[2Jb\nc"'))
    assert load_results(tmp_path)["sae_id"].iloc[0] == r"a\x1b[2Jb\nc"
