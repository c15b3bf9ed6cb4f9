"""From result files, SAEBench's own and ours, to tables, Pareto fronts and plots."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from PIL import Image
from typer.testing import CliRunner, Result

from eval_recipes import cli
from eval_recipes.results.files import load_results, read_result, write_summary
from eval_recipes.results.headlines import L0, TABLE_COLUMNS, Metric, choose
from eval_recipes.results.outdated import DAGGER, FOOTNOTE, note_attempts
from eval_recipes.results.tidy import architecture, penalty
from eval_recipes.statistics.seeds import seed_interval
from eval_recipes.tables.colours import group_colours
from eval_recipes.tables.plots import (
    Picture,
    draw_picture,
    plot_pareto,
    points_by_metric,
)
from eval_recipes.tables.table import (
    kind_label,
    markdown,
    on_front,
    points,
    results_table,
    wide_frame,
    without_l0,
)
from saereg_plugin.errors import InputError
from tests.eval_recipes.tables.upstream_files import (
    write_core,
    write_probing,
    write_scr,
    write_tpp,
)
from tests.training import make_cfg, make_stock_cfg

SP, SCR, TPP, CE, SHARED = TABLE_COLUMNS
OF_UPSTREAM = (SP, SCR, TPP, CE)
PENALTY = {"name": "weight_penalty", "norm": "l2", "coefficient": 0.25}
RELEASE = "lab/run"


def saved_cfg(cfg: Any) -> dict[str, Any]:
    """What SAELens writes into cfg.json for a training configuration."""
    saved = cfg.get_inference_sae_cfg_dict()
    saved["metadata"] = {
        "training_architecture": cfg.architecture(),
        "training_architecture_details": cfg.get_training_architecture_details(),
    }
    return json.loads(json.dumps(saved, default=str))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six SAEs of two kinds with every headline, in folders whose names mislead."""
    folder = tmp_path_factory.mktemp("scratch-absorption")
    kinds = {
        "plain": make_stock_cfg("batchtopk"),
        "l2": make_cfg("batchtopk", regularizers=[PENALTY]),
    }
    for (name, cfg), (number, l0) in product(
        kinds.items(), enumerate((8.0, 16.0, 32.0))
    ):
        sae_id = f"{name}-{number}"
        better = 0.1 if name == "l2" else 0.0
        # the middle one is worse than the one before it
        quality = (0.6, 0.5, 0.8)[number] + better
        saved = saved_cfg(cfg)
        core_folder = folder / "sparse_probing"
        write_core(core_folder, RELEASE, sae_id, l0=l0, ce=quality, cfg=saved)
        write_probing(
            folder / "a",
            RELEASE,
            sae_id,
            quality,
            cfg=saved,
            sae_top_5_test_accuracy=1,
        )
        write_scr(folder / "b", RELEASE, sae_id, quality / 2, cfg=saved)
        write_tpp(folder / "c", RELEASE, sae_id, quality / 4, cfg=saved)
    return folder


@pytest.fixture(scope="module")
def frame(results: Path) -> pd.DataFrame:
    return load_results(results)


def test_upstreams_files_are_read_by_what_they_say(frame: pd.DataFrame) -> None:
    assert set(frame["eval"]) == {"core", "sparse_probing", "scr", "tpp"}
    assert set(frame["release"]) == {RELEASE}
    assert frame["group"].isna().all()
    assert frame["seed"].isna().all()
    row = frame[(frame.metric == L0.metric) & (frame.sae_id == "l2-1")].iloc[0]
    assert (row.value, row.architecture, row.penalty) == (16, "batchtopk", "l2 0.25")
    plain = frame[(frame.metric == L0.metric) & (frame.sae_id == "plain-1")].iloc[0]
    assert (plain.architecture, plain.penalty) == ("batchtopk", "none")


def test_upstreams_minus_one_and_nan_become_missing(tmp_path: Path) -> None:
    nan = float("nan")
    write_core(
        tmp_path,
        "r",
        "s",
        l0=3,
        l1=nan,
        details=[
            {"consistent_activation_heuristic": nan, "encoder_bias": -1.0},
            {"consistent_activation_heuristic": 2.0},
        ],
    )
    path = write_probing(tmp_path / "p", "r", "s", nan)
    assert "NaN" in path.read_text()
    frame = load_results(tmp_path).set_index("metric")["value"]
    assert pd.isna(frame["sparsity/l1"])
    assert frame["sparsity/l0"] == 3
    assert pd.isna(frame[SP.metric])
    (core_file,) = tmp_path.glob("*.json")
    details = read_result(core_file)["eval_result_details"]
    assert [d["consistent_activation_heuristic"] for d in details] == [None, 2.0]
    # a bias may be -1
    assert details[0]["encoder_bias"] == -1.0


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        (None, None),
        ({}, None),
        ({"architecture": "<bound method SAE.architecture>"}, None),
        ({"architecture": "jumprelu"}, "jumprelu"),
        ({"architecture": "batch_topk"}, "batchtopk"),
        ({"architecture_str": "topk", "architecture": "standard"}, "topk"),
        ({"trainer": {"trainer_class": "MatryoshkaBatchTopKTrainer"}}, None),
        ({"trainer_class": "GatedSAETrainer"}, "gated"),
        (saved_cfg(make_cfg("matryoshka_batchtopk")), "matryoshka_batchtopk"),
        (saved_cfg(make_cfg("jumprelu")), "jumprelu"),
    ],
)
def test_architecture_is_found_wherever_it_stands(cfg: Any, expected: str) -> None:
    if expected is None and cfg and "trainer" in cfg:
        expected = "matryoshka_batchtopk"
    assert architecture(cfg) == expected


@pytest.mark.parametrize(
    ("regularizers", "expected"),
    [
        ([], "none"),
        ([{**PENALTY, "coefficient": 0.0}], "none"),
        ([PENALTY], "l2 0.25"),
        ([{**PENALTY, "target": "encoder"}], "l2 0.25 target=encoder"),
        ([{**PENALTY, "mode": "decoupled"}], "l2 0.25 mode=decoupled"),
        ([{**PENALTY, "schedule": {"warm_up_steps": 5}}], "l2 0.25 schedule"),
        ([PENALTY, {**PENALTY, "norm": "l1"}], "l2 0.25 + l1 0.25"),
    ],
)
def test_penalty_in_few_words(regularizers: list[Any], expected: str) -> None:
    cfg = saved_cfg(make_cfg("topk", regularizers=regularizers))
    assert penalty(cfg) == expected


def test_penalty_of_a_foreign_file_is_not_known() -> None:
    assert penalty(None) is None
    assert penalty({"architecture": "topk"}) is None
    assert penalty(saved_cfg(make_stock_cfg("topk"))) == "none"


def test_front_of_each_kind_leaves_out_what_is_dominated(frame: pd.DataFrame) -> None:
    for metric in OF_UPSTREAM:
        rows = points(frame, metric)
        assert list(rows["sae_id"]) == [
            f"{k}-{i}" for k in ("l2", "plain") for i in range(3)
        ]
        assert list(rows["front"]) == [True, False, True] * 2
        assert list(rows["l0"]) == [8, 16, 32] * 2
    assert rows["value"].iloc[0] == pytest.approx(0.7)


_NUMBERS = st.integers(0, 5).map(float)


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS), max_size=12), st.booleans())
def test_front_is_what_no_point_dominates(
    pairs: list[tuple[float, float]], higher: bool
) -> None:
    sign = 1 if higher else -1

    def dominated(index: int) -> bool:
        l0, value = pairs[index]
        return any(
            x <= l0 and sign * y >= sign * value and (x, y) != (l0, value)
            for x, y in pairs
        )

    array = np.array(pairs, dtype=float).reshape(-1, 2)
    found = on_front(array[:, 0], array[:, 1], higher_is_better=higher)
    assert found.tolist() == [not dominated(index) for index in range(len(pairs))]


def test_saes_without_l0_are_named_and_left_out(tmp_path: Path) -> None:
    write_core(tmp_path / "core", "r", "a", l0=4)
    # L0 is joined by release and id, not by id alone
    for number, release in enumerate(("r", "other")):
        write_probing(tmp_path / str(number), release, "a", 0.5)
    frame = load_results(tmp_path)
    assert list(points(frame, SP)["release"]) == ["r"]
    assert without_l0(frame, SP) == ["a"]
    assert without_l0(frame, CE) == []
    wide = wide_frame(frame, [SP])
    assert wide.set_index("release")["L0"].isna().to_dict() == {
        "other": True,
        "r": False,
    }


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("core/ce_loss_score", True),
        ("core/kl_div_score", True),
        ("core/ce_loss_with_sae", False),
        ("core/mse", False),
        ("absorption_first_letter/mean_absorption_fraction_score", False),
        ("core/explained_variance", True),
        ("core/l0", False),
        ("autointerp/unparseable_rate", False),
        ("scr/scr_metric_threshold_10_padding_share", False),
        ("sparse_probing_sae_probes/test_rows_in_train", False),
        ("cross_seed/always_shared", True),
        ("cross_seed/never_shared", False),
    ],
)
def test_direction_of_metrics(metric: str, higher: bool) -> None:
    eval, _, name = metric.partition("/")
    assert Metric(eval, f"x/{name}", name).higher_is_better is higher


def test_metrics_are_found_by_title_and_by_the_end_of_their_name(
    frame: pd.DataFrame,
) -> None:
    assert choose(frame, []) == list(OF_UPSTREAM)
    shared = frame.iloc[:1].assign(eval=SHARED.eval, metric=SHARED.metric, value=0.5)
    both = pd.concat([frame, shared])
    assert choose(both, []) == list(TABLE_COLUMNS)
    assert wide_frame(both, choose(both, []))["shared"].dropna().tolist() == [0.5]
    assert choose(frame, ["sp", "SCR@10", "sp"]) == [SP, SCR]
    (found,) = choose(frame, ["sae_top_5_test_accuracy"])
    assert found.full_name == "sparse_probing/sae/sae_top_5_test_accuracy"
    assert choose(frame, ["sae/sae_top_5_test_accuracy", found.full_name]) == [found]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sae_top_5_acuracy", "Nearest: 'sparse_probing/sae/sae_top_5_test_accuracy'"),
        ("explaned_variance", "'core/reconstruction_quality/explained_variance'"),
        ("zzzz", "The results are of core, scr, sparse_probing, tpp."),
        ("op_5_test_accuracy", "No result has a metric 'op_5_test_accuracy'."),
    ],
)
def test_unknown_metric_names_the_nearest(
    frame: pd.DataFrame, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        choose(frame, [name])


def test_ambiguous_or_absent_metrics_are_refused(tmp_path: Path) -> None:
    write_core(tmp_path, "r", "a", l0=4)
    frame = load_results(tmp_path)
    copy = frame.assign(eval="core_again")
    with pytest.raises(
        InputError, match="'core/sparsity/l1', 'core_again/sparsity/l1'"
    ):
        choose(pd.concat([frame, copy]), ["l1"])
    with pytest.raises(InputError, match="Run the evaluation 'scr'"):
        choose(frame, ["SCR@10"])
    with pytest.raises(InputError, match="hold none of the headline metrics"):
        choose(frame[frame.metric == "sparsity/l1"], [])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "160"})


def test_table_command_marks_the_front(results: Path) -> None:
    result = run("table", str(results))
    assert result.exit_code == 0
    lines = {
        line.split()[0]: line.split() for line in result.output.splitlines() if line
    }
    assert lines["l2-0"][-5:] == ["8", ".700*", ".350*", ".175*", ".700*"]
    assert lines["l2-1"][-4:] == [".600", ".300", ".150", ".600"]
    assert "l2 0.25" in result.output
    assert "not comparable" not in result.output


def test_table_as_csv_and_markdown_holds_the_same(
    results: Path, frame: pd.DataFrame
) -> None:
    rows = list(csv.DictReader(io.StringIO(run("table", str(results), "--csv").output)))
    assert len(rows) == 6
    assert float(rows[0]["SP"]) == pytest.approx(0.7)
    assert rows[0]["penalty"] == "l2 0.25"
    text = run("table", str(results), "--markdown", "--metric", "CE loss score").output
    lines = text.splitlines()
    assert lines[0].split("|")[-2].strip() == "CE loss score"
    assert len(lines) == 8
    assert {line.count("|") for line in lines} == {9}
    assert text == markdown(frame, [CE])
    both = run("table", str(results), "--csv", "--markdown")
    assert isinstance(both.exception, InputError)


def test_outdated_saes_have_a_mark(tmp_path: Path) -> None:
    for sae_id in ("new", "old"):
        path = write_probing(tmp_path, "r", sae_id, 0.5)
        record = json.loads(path.read_text()) | {"eval_id": sae_id}
        path.write_text(json.dumps(record).replace("NaN", "null"))
    note_attempts(tmp_path, failed={path: "no room"}, current=())

    for flag in ("--metric=SP", "--markdown"):
        output = run("table", str(tmp_path), flag).output
        assert re.findall(r"(\w+)†", output) == ["old"]
        assert "† outdated: the run" in output
    text = run("table", str(tmp_path), "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0])[-1] == "outdated"
    assert {row["sae_id"]: row["outdated"] for row in rows} == {
        "new": "False",
        "old": "True",
    }
    summary = pd.read_csv(write_summary(tmp_path))
    assert set(summary.loc[summary["outdated"], "sae_id"]) == {"old"}


def test_outdated_saes_have_a_mark_in_plots(tmp_path: Path) -> None:
    for sae_id in ("new", "old"):
        path = write_core(tmp_path, "r", sae_id, l0=3)
        record = json.loads(path.read_text()) | {"eval_id": sae_id}
        path.write_text(json.dumps(record).replace("NaN", "null"))
    note_attempts(tmp_path, failed={path: "no room"}, current=())
    rows = points_by_metric(load_results(tmp_path), [CE])[CE]
    assert dict(zip(rows["sae_id"], rows["outdated"])) == {"new": False, "old": True}
    for l0 in (rows["l0"], [3.0, 30.0]):
        drawn = draw_picture({CE: rows.assign(l0=l0)})
        assert [text.get_text() for text in drawn.axes[0].texts] == [DAGGER]
        assert drawn.get_supxlabel() == FOOTNOTE
    picture = draw_picture({CE: rows})._repr_png_()
    current = draw_picture({CE: rows.assign(outdated=False)})._repr_png_()
    assert picture.startswith(b"\x89PNG")
    assert picture != current


def test_saes_of_one_l0_are_drawn_by_group_with_an_interval_over_seeds(
    tmp_path: Path,
) -> None:
    values = {"l2": [0.7, 0.8, 0.75], "none": [0.5, 0.6]}
    for group, ces in values.items():
        for seed, ce in enumerate(ces):
            write_core(tmp_path, "r", f"{group}-{seed}", l0=32 + 0.1 * seed, ce=ce)
    frame = load_results(tmp_path)
    frame["group"] = frame["sae_id"].str.rpartition("-")[0]
    frame["seed"] = frame["sae_id"].str.rpartition("-")[2].astype("Int64")
    (axes,) = plot_pareto(frame, ["CE loss score"]).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["l2", "none"]
    assert axes.get_xlabel() == "CE loss score"
    drawn = [list(map(float, line.get_xdata())) for line in axes.lines]
    assert sorted(drawn[0]) == pytest.approx(sorted(values["l2"]))
    expected = seed_interval(dict(enumerate(values["l2"])))
    assert drawn[1] == pytest.approx([expected.low, expected.high])
    assert drawn[2] == pytest.approx([0.75])
    # two seeds have no interval
    assert np.isnan(drawn[4]).all() and drawn[5] == pytest.approx([0.55])
    colours = group_colours(["none", "l2"])
    assert [line.get_color() for line in axes.lines[::3]] == [*colours.values()]
    low, high = axes.get_xlim()
    assert low < 0.5 and high > 0.8
    # a group that this plot does not show changes no colour
    other = frame.assign(group=frame["group"].replace("none", "a"))
    drawn = other["metric"].str.endswith("ce_loss_score")
    some = other.loc[(other["group"] == "l2") | ~drawn]
    (axes,) = plot_pareto(some, ["CE loss score"]).axes
    assert axes.lines[0].get_color() == group_colours(["a", "l2"])["l2"]
    # SAEs without a seed are no sample of seeds
    (axes,) = plot_pareto(frame.assign(seed=pd.NA), ["CE loss score"]).axes
    assert np.isnan(axes.lines[1].get_xdata().astype(float)).all()


def test_saes_of_several_l0_are_drawn_against_it_in_the_colour_of_their_group(
    frame: pd.DataFrame,
) -> None:
    named = frame.assign(group=frame["sae_id"].str.rpartition("-")[0])
    axes = plot_pareto(named, ["CE loss score"]).axes[0]
    assert axes.get_xlabel() == "L0"
    found = {
        label: to_hex(handle[0].get_color()).upper()
        for handle, label in zip(*axes.get_legend_handles_labels())
    }
    colours = group_colours(["plain", "l2"])
    assert found == {
        "batchtopk, l2 0.25": colours["l2"],
        "batchtopk, none": colours["plain"],
    }


def test_a_group_of_one_l0_is_named_with_its_release_and_an_sae_without_by_its_kind(
    tmp_path: Path,
) -> None:
    for release in ("first", "second"):
        write_core(tmp_path / release, release, "a", l0=32)
    (axes,) = plot_pareto(tmp_path, [CE.full_name]).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["first/jumprelu", "second/jumprelu"]


def test_plots_and_tables_come_from_a_folder_or_a_frame_and_write_nothing(
    tmp_path: Path,
) -> None:
    write_core(tmp_path, "r", "a", l0=3)
    write_core(tmp_path, "r", "b", l0=5)
    files = sorted(tmp_path.rglob("*"))
    frame = load_results(tmp_path)
    for results in (tmp_path, str(tmp_path), frame):
        figure = plot_pareto(results, [CE.full_name])
        assert isinstance(figure, Picture)
        assert figure.axes[0].get_xlabel() == "L0"
        table = results_table(results, [CE.full_name])
        assert list(table["sae_id"]) == ["a", "b"]
        assert list(table["L0"]) == [3, 5]
    assert sorted(tmp_path.rglob("*")) == files


def test_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        plot_pareto(tmp_path)
    with pytest.raises(InputError, match="holds no results"):
        results_table(tmp_path)


def test_embedded_data_is_told(tmp_path: Path) -> None:
    path = write_probing(tmp_path, "r", "a", 0.5)
    record = json.loads(path.read_text())
    record["eval_result_unstructured"] = {"data": "embedded", "saereg": {"seed": 1}}
    path.write_text(json.dumps(record).replace("NaN", "null"))
    assert "not comparable with published" in run("table", str(tmp_path)).output


def test_plot_command_writes_an_image(results: Path, tmp_path: Path) -> None:
    result = run("plot", str(results), "--out", str(tmp_path / "plots"))
    assert result.exit_code == 0
    image = Image.open(tmp_path / "plots" / "pareto.png").convert("RGB")
    assert min(image.size) > 400
    # both kinds are drawn in their colours: 0072B2 and D55E00
    colours = {colour for _, colour in image.getcolors(1 << 24) or []}
    assert {(0, 114, 178), (213, 94, 0)} <= colours
    assert [path.name for path in (tmp_path / "plots").glob("pareto*")] == [
        "pareto.png"
    ]


def test_plot_says_what_it_leaves_out_and_needs_l0(tmp_path: Path) -> None:
    write_probing(tmp_path / "p", "r", "a", 0.5)
    result = run("plot", str(tmp_path))
    assert isinstance(result.exception, InputError)
    assert "L0 is read from core's results" in str(result.exception)
    assert not (tmp_path / "plots").exists()
    write_core(tmp_path / "c", "r", "b", l0=4)
    write_probing(tmp_path / "q", "r", "b", 0.5)
    result = run("plot", str(tmp_path))
    assert result.exit_code == 0
    assert "SP: 1 SAEs without L0 are left out" in result.output
    assert (tmp_path / "plots" / "pareto.png").is_file()
    # plots lie in the results folder and are no results
    assert set(load_results(tmp_path)["sae_id"]) == {"a", "b"}


def test_kind_labels() -> None:
    assert kind_label("topk", "l2 1") == "topk, l2 1"
    assert kind_label("topk", None) == "topk"
    assert kind_label(None, float("nan")) == "unknown"
