"""The speed benchmark: what it times, compares, and writes down."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.registry import RECIPES
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import subjects_of
from eval_recipes.speed import Row, Shape, SpeedConfig, run_speed
from eval_recipes.speed.activations import Work, activation_rows
from eval_recipes.speed.dead_latents import dead_rows
from eval_recipes.speed.evaluations import OPTIONS, UPSTREAM, rounds
from eval_recipes.speed.evaluations import OURS as OUR_COMMAND
from eval_recipes.speed.evaluations import THEIRS as SAEBENCH
from eval_recipes.speed.heldout import heldout_rows
from eval_recipes.speed.implementations import (
    OURS,
    SAE_LENS,
    SCREENED,
    UNSCREENED,
    build_step,
    peers,
)
from eval_recipes.speed.matching import OURS as OUR_MATCHING
from eval_recipes.speed.matching import (
    SCIPY,
    _timed,
    by_scipy,
    matching_rows,
    planted,
    trained,
)
from eval_recipes.speed.measurement import (
    Timing,
    interleaved,
    matmul_rate,
    parse_shape,
    peak_gib,
    ratio,
    reset_peak,
)
from eval_recipes.speed.run import (
    BY_NAME_ONLY,
    HEADINGS,
    SUITES,
    chosen_suites,
    formatted,
)
from eval_recipes.speed.screening import plot_screening, screening_rows
from eval_recipes.speed.training import _own, _peak, measure, peak_of
from saereg_plugin.errors import InputError
from saereg_plugin.releases.release import Release
from tests.forked import forked
from tests.sweeps.tiny import tiny_sweep

SMALL = Shape(d_in=32, d_sae=512, k=4, batch=64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("576,16384,32", "expected d_in,d_sae,k,batch"),
        ("576,16384,x,4", "expected d_in,d_sae,k,batch"),
        ("576,16,32,4096", "k=32 of a shape is above d_sae=16"),
        ("0,16,4,8", "d_in of a shape is 0"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_value(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_shape(text)


def test_shape_is_read_and_named() -> None:
    assert parse_shape("8,64, 2,16") == Shape(8, 64, 2, 16)
    assert str(Shape(8, 64, 2, 16)) == "8-64-k2-b16"
    assert Shape(8, 64, 2, 16).encoder_flop == 2 * 16 * 8 * 64


def test_calls_take_turns_and_nobody_always_follows_the_same() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    timed = interleaved(calls, repeats=3, warm_up=1)

    rounds = ["".join(order[start : start + 3]) for start in range(0, 12, 3)]
    assert rounds == ["cab", "abc", "bca", "cab"]
    assert {len(timing.seconds) for timing in timed.values()} == {3}


def test_seconds_are_those_of_the_call_itself() -> None:
    timed = interleaved(
        {"one": lambda: time.sleep(0.02), "two": lambda: time.sleep(0.04)}, repeats=5
    )
    assert timed["one"].median >= 0.02
    assert timed["two"].median >= 0.04


def test_ratio_is_that_of_medians_and_its_interval_keeps_rounds_together() -> None:
    # the machine is three times as slow in every other round; pairs keep their ratio
    drift = np.tile([1.0, 3.0], 8)
    found = ratio(Timing(tuple(2 * drift)), Timing(tuple(drift)))
    assert (found.value, found.low, found.high) == (2, 2, 2)


def test_product_speed_is_that_of_products() -> None:
    assert 1e8 < matmul_rate(torch.float32, device="cpu", repeats=3) < 1e15


@pytest.mark.parametrize("name", [OURS, "saereg batchtopk", *peers()])
def test_every_implementation_trains(name: str) -> None:
    step = build_step(name, SMALL, autocast=False, device="cpu", seed=0)
    step()
    step()


def test_memory_counts_what_was_given_back() -> None:
    before = reset_peak("cpu")
    held = torch.ones(64 * 2**20)
    del held
    assert 0.2 < peak_gib("cpu") - before < 0.4


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    shape = Shape(d_in=64, d_sae=16_384, k=8, batch=1024)
    ours = peak_of(OURS, shape, autocast=False, device="cpu", seed=0)
    dense = forked(_peak, SAE_LENS, vars(shape), False, "cpu", 0)
    # a dense step keeps several matrices of batch x d_sae, 64 MiB each
    assert dense > 3 / 16
    assert ours < dense / 2


@pytest.mark.slow
def test_a_failure_in_the_other_process_is_told() -> None:
    with pytest.raises(RuntimeError, match="memory of nonsense failed: KeyError"):
        peak_of("nonsense", SMALL, autocast=False, device="cpu", seed=0)


@pytest.mark.slow
def test_rows_are_complete_and_written_with_the_machine(tmp_path: Path) -> None:
    """By the command, which prints them as a table."""
    out = tmp_path / "speed.json"
    arguments = ["speed", "--suite", "training", "--shape", "32,512,4,64"]
    result = CliRunner().invoke(app, [*arguments, "--repeats", "3", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "sae_lens" in result.output

    record = json.loads(out.read_text())
    frame = pd.DataFrame(record["rows"])
    assert set(frame["implementation"]) == {OURS, UNSCREENED, *peers()}
    # nothing is screened under autocast
    assert len(frame) == 2 * len({OURS, *peers()}) + 1
    ours = frame[frame["implementation"] == OURS]
    assert (ours["ratio"] == 1).all()
    np.testing.assert_allclose(
        frame["throughput"] * frame["seconds"], SMALL.batch, rtol=1e-12
    )
    assert record["hardware"]["cores"] > 0
    assert record["product_gflops"]["float32"] > 0
    assert record["versions"]["sae-lens"]
    cells = formatted(frame.iloc[0].to_dict())
    assert len(cells) == len(HEADINGS)


def test_dead_latents_are_timed_against_parts_of_the_step() -> None:
    config = SpeedConfig(shapes=(SMALL,), repeats=3)
    rows = list(dead_rows(config))
    assert [row.case.split(", ")[1] for row in rows[::4]] == ["10% dead", "30% dead"]
    for start in (0, 4):
        step, none_dead, product, selection = rows[start : start + 4]
        assert step.implementation == OURS and step.ratio == 1
        assert none_dead.implementation == f"{OURS}, none dead"
        assert product.ratio_high is not None
        assert selection.ratio is not None and selection.seconds


def test_the_heldout_pass_is_timed_sparse_and_dense(trained_release: Release) -> None:
    config = SpeedConfig(repeats=3, release=str(trained_release.folder))
    sparse, dense = heldout_rows(config, tokens=128)
    assert (sparse.implementation, dense.implementation) == ("saereg", "sae.encode")
    assert sparse.ratio == 1 and sparse.n == dense.n == 3
    assert dense.ratio_low is not None and dense.ratio is not None
    with pytest.raises(InputError, match="add for example --release"):
        next(heldout_rows(SpeedConfig(repeats=3)))


def test_a_gpu_is_timed_with_screening_which_is_no_default_there() -> None:
    assert _own("cuda", autocast=False) == [OURS, UNSCREENED, SCREENED]
    assert _own("cuda", autocast=True) == [OURS]


def test_an_interrupted_run_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "speed.json"
    row = Row("x", "case", OURS, seconds=1.0, n=3)

    def broken(_: SpeedConfig):
        yield row
        raise KeyboardInterrupt

    monkeypatch.setattr("eval_recipes.speed.run.SUITES", {"x": broken})
    with pytest.raises(KeyboardInterrupt):
        run_speed(SpeedConfig(), ["x"], out=out)
    assert json.loads(out.read_text())["rows"] == [vars(row)]


def test_only_a_file_of_its_own_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row("x", "case", OURS, seconds=float(n), n=3) for n in (1, 2)]
    monkeypatch.setattr("eval_recipes.speed.run.SUITES", {"x": lambda _: iter(rows)})
    out = tmp_path / "new" / "speed.json"
    run_speed(SpeedConfig(), ["x"], out=out)
    # a killed run left the first
    (out.parent / ".speed.json.0123abcd.tmp").write_text("{")
    (out.parent / ".other.json.0123abcd.tmp").write_text("mine")
    rows.pop()
    run_speed(SpeedConfig(), ["x"], out=out)
    assert len(json.loads(out.read_text())["rows"]) == 1
    names = {path.name for path in out.parent.iterdir()}
    assert names == {"speed.json", ".other.json.0123abcd.tmp"}
    for text in ("", "mine", "[]", '{"rows": []}'):
        out.write_text(text)
        with pytest.raises(InputError, match="was not written by this command"):
            run_speed(SpeedConfig(), ["x"], out=out)
        assert out.read_text() == text


def test_unknown_suite_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match="Unknown speed suite 'trainin'.*training"):
        chosen_suites(["trainin"])


def test_command_refuses_before_it_measures() -> None:
    result = CliRunner().invoke(app, ["speed", "--repeats", "1"])
    assert isinstance(result.exception, InputError)
    assert "repeats=1; expected at least 3" in str(result.exception)


@pytest.mark.slow
def test_parts_of_a_sweep_are_measured_apart() -> None:
    sweep = replace(tiny_sweep(), groups={"sae": {}}, seeds=(0, 1), tokens=40 * 256)
    times = measure(sweep, steps=8)
    assert times.model > 0
    assert times.step > 0
    # the sweep makes two of these steps and runs the model
    assert times.sweep > times.model + times.step


def test_matching_takes_turns_with_scipy_on_the_same_pairs() -> None:
    pairs = [planted(96, 8, 0.5, seed=seed) for seed in range(2)]
    config = SpeedConfig(shapes=(SMALL,), repeats=3)
    ours, scipy = _timed("case", pairs, config)
    assert (ours.implementation, scipy.implementation) == (OUR_MATCHING, SCIPY)
    assert (ours.ratio, ours.n, scipy.n) == (1, 3, 3)
    assert ours.seconds is not None
    assert scipy.seconds is not None
    assert scipy.ratio == pytest.approx(scipy.seconds / ours.seconds)
    assert ours.throughput == pytest.approx(2 * 96 / ours.seconds)


def test_planted_dictionaries_share_what_they_say() -> None:
    a, b = planted(200, 64, 0.25, seed=0)
    (total,) = by_scipy([(a, b)])
    unit_a, unit_b = (rows / rows.norm(dim=1, keepdim=True) for rows in (a, b))
    best = (unit_a @ unit_b.T).abs().amax(dim=1)
    assert int((best > 0.8).sum()) == 50
    assert (best[:50] > 0.8).all()
    assert 200 > total > best[:50].sum()


def test_trained_pair_needs_two_saes(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        trained(str(tmp_path))


@pytest.mark.slow
def test_matching_suite_measures_time_and_memory() -> None:
    shape = Shape(d_in=16, d_sae=256, k=4, batch=8)
    rows = list(matching_rows(SpeedConfig(shapes=(shape,), repeats=3)))
    assert [row.implementation for row in rows] == [OUR_MATCHING, SCIPY] * 3
    assert [row.peak_gib is not None for row in rows] == [False] * 4 + [True] * 2


@pytest.mark.slow
def test_evaluations_do_the_same_work(trained_release: Release, tmp_path: Path) -> None:
    """A round of core, timed on both sides: upstream's own entry point gives our figures."""
    context = RunContext(
        subjects=subjects_of(str(trained_release.folder))[:1],
        out=tmp_path,
        heldout_tokens=256,
        data="embedded",
        options={
            "core": {
                "n_eval_sparsity_variance_batches": 1,
                "eval_batch_size_prompts": 2,
            }
        },
    )
    seconds = rounds(context, tmp_path, 1)
    assert {who: [*times[0]] for who, times in seconds.items()} == {
        OUR_COMMAND: ["core"],
        SAEBENCH: ["core"],
    }
    assert all(times[0]["core"] > 0 for times in seconds.values())
    place = tmp_path / "round0"
    (ours,), (theirs,) = (
        [
            json.loads(path.read_text())["eval_result_metrics"]
            for path in (place / side).rglob("*_eval_results.json")
        ]
        for side in ("out", "results")
    )
    assert set(ours) - set(theirs) == {"corrected"}
    for category, metrics in theirs.items():
        assert ours[category] == pytest.approx(metrics, abs=1e-6)


@pytest.mark.parametrize("name", ["evaluations", "matching", "matching-large"])
def test_long_suites_run_by_name_only(name: str) -> None:
    assert name not in chosen_suites(())
    assert chosen_suites([name]) == [name]


def test_the_help_names_every_suite_and_which_run_by_name_only() -> None:
    assert {*chosen_suites(())} == {*SUITES} - BY_NAME_ONLY
    # without the table's borders and wherever its lines are broken
    shown = CliRunner().invoke(app, ["speed", "--help"]).output
    words = " ".join(re.sub("[│|]", " ", shown).split())
    usual, rare = words.split("training, ")[1].split("by name only:")
    assert all(
        re.search(rf"\b{name}\b", "training, " + usual) for name in chosen_suites(())
    )
    assert all(re.search(rf"{name} \(", rare) for name in BY_NAME_ONLY)


def test_what_upstream_needs_to_run_is_there_for_every_offline_eval() -> None:
    assert set(UPSTREAM) == set(OPTIONS)
    assert set(OPTIONS) < set(RECIPES)


def test_sources_are_timed_against_bare_passes_and_their_replay() -> None:
    config = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        mlp_ratio=2,
    )
    work = Work(images=4, size=28, layers=2, rows=500, d_in=8)
    model = Dinov2Model(config).eval()
    rows = list(activation_rows(SpeedConfig(repeats=3), model=model, work=work))
    cases = {row.case.split(",")[0]: row.unit for row in rows}
    assert cases == {"extraction": "images/s", "replay": "MB/s"}
    ours = [row for row in rows if row.ratio == 1]
    assert [row.implementation for row in ours] == [
        "saereg, module source",
        "saereg, replay of the cache",
        "saereg, replay from disk",
    ]
    assert all(row.seconds and row.throughput for row in rows)


def test_screened_selections_are_timed_against_plain_ones(tmp_path: Path) -> None:
    curves = {"k": (4, 512), "d_in": (16,), "d_sae": (1024,)}
    base = Shape(d_in=32, d_sae=512, k=4, batch=64)
    rows = list(screening_rows(SpeedConfig(repeats=3), base=base, curves=curves))
    # no selection of all latents can be screened
    assert [row.case.split(":")[0] for row in rows[::2]] == [
        "k 4",
        "d_in 16",
        "d_sae 1024",
    ]
    for screened, plain in zip(rows[::2], rows[1::2], strict=True):
        assert (screened.implementation, plain.implementation) == (
            "screened",
            "unscreened",
        )
        assert screened.ratio == 1 and plain.ratio_low is not None
        assert screened.candidates is not None and screened.candidates >= 4
        assert screened.chosen is False
    plot_screening([vars(row) for row in rows], tmp_path / "screening.png")
    assert (tmp_path / "screening.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "streams", "--plot", "a.png"], "Add --suite screening"),
        (["--suite", "screening", "--plot", "a.pdf"], "is no PNG file"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(
    arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["speed", *arguments])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
