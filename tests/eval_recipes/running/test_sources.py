"""Runs over SAEs on other activations than a language model's."""

from __future__ import annotations

import copy
import gc
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import ref

import numpy as np
import pytest
import torch
from torch import nn

import saereg_plugin as sr
from eval_recipes.cli import main as command
from eval_recipes.results.files import read_result, result_files
from eval_recipes.running.activation_source import (
    Place,
    open_other,
    other_digest,
    other_place,
)
from eval_recipes.running.check import check_model, differing_fields
from eval_recipes.running.context import RunContext
from eval_recipes.running.corpus import choose_corpus
from eval_recipes.running.evaluate import default_evals
from eval_recipes.running.heldout import measure_heldout
from eval_recipes.running.heldout_pass import tally_heldout
from eval_recipes.running.passes import Passed
from eval_recipes.running.run import Outcome, run_evals, subjects_of
from eval_recipes.running.sources import OtherSource
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.sweeps.test_sources import FIELDS

N = 20
PATCHES = 16
OPTIONS: dict[str, dict[str, Any]] = {
    "cross_seed": {"n_resamples": 20},
    "examples": {"n_resamples": 20},
    "meta_structure": {"train_steps": 2, "train_batch_size": 8},
}
SWEEP: dict[str, Any] = {**FIELDS, "tokens": 320}


class Counted(nn.Module):
    """A network of two layers that counts the inputs that it read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 2, stride=2)
        self.second = nn.Conv2d(8, 6, 1)
        self.inputs = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.inputs += len(images)
        return self.second(self.first(images))


def source(
    points: Any = ("first", "second"), *, seed: int = 1, network: Any = None
) -> sr.ModuleSource:
    images = torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    module = Counted() if network is None else network
    return sr.ModuleSource(module, images, point=points, rows="patches")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> sr.Release:
    out = tmp_path_factory.mktemp("other") / "own"
    trained = sr.train(source(seed=0), out=out, **SWEEP)
    assert trained.release is not None
    return trained.release


def context_of(release: Any, out: Path, **changes: Any) -> RunContext:
    fields: dict[str, Any] = {"source": source(), "options": OPTIONS, **changes}
    artifacts = out.parent / "artifacts"
    return RunContext(subjects_of(release), out, artifacts=artifacts, **fields)


@pytest.fixture(scope="module")
def done(
    release: sr.Release, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunContext, Outcome]:
    context = context_of(release, tmp_path_factory.mktemp("run") / "out")
    evals = ("cross_seed", "examples", "meta_structure")
    return context, run_evals(evals, context)


def test_figures_equal_a_plain_computation_at_each_point(
    release: sr.Release, tmp_path: Path
) -> None:
    table = measure_heldout(context_of(release, tmp_path / "out"))
    for sae_id, point in (
        ("plain-first-seed0", "first"),
        ("l2-second-seed1", "second"),
    ):
        sae = release.load(sae_id)
        x = torch.cat([p.rows(point) for p in source().passes(torch.arange(N))])
        with torch.no_grad():
            z = sae.encode(x)
            error = (x - sae.decode(z)).double()
        x = x.double()
        unexplained = error.square().sum() / (x - x.mean(0)).square().sum()
        figures = table[sae_id]
        assert figures.explained_variance == pytest.approx(1 - float(unexplained))
        assert figures.mse == pytest.approx(float(error.square().mean()))
        assert figures.l0 == pytest.approx(float((z != 0).sum(1).double().mean()))
        assert figures.alive == int((z != 0).any(0).sum())
        assert (figures.n_tokens, figures.context_size) == (N * PATCHES, PATCHES)
        assert figures.explained_variance_n == N
        assert figures.explained_variance_with_bos is None


def test_one_pass_serves_all_points_and_rows_bound_it(
    release: sr.Release, tmp_path: Path
) -> None:
    network = Counted()
    given = source(network=network)
    context = context_of(release, tmp_path / "out", source=given)
    network.inputs = 0
    assert len(measure_heldout(context)) == 8
    assert network.inputs == N
    fewer = replace(context, heldout_tokens=3 * PATCHES - 1)
    network.inputs = 0
    found = measure_heldout(fewer)
    assert network.inputs == 3
    assert {one.n_tokens for one in found.values()} == {3 * PATCHES}


def test_evaluations_of_any_source_write_results(
    done: tuple[RunContext, Outcome],
) -> None:
    context, outcome = done
    assert outcome.failures == []
    records = [read_result(path) for path in result_files(context.out)]
    assert len(records) == 3 * 8
    (cross,) = [
        record
        for record in records
        if record["eval_type_id"] == "cross_seed"
        and record["sae_lens_id"] == "plain-first-seed0"
    ]
    heldout = cross["eval_result_metrics"]["heldout"]
    assert heldout["alive_n"] == N * PATCHES
    assert heldout["explained_variance_with_bos"] is None
    assert cross["eval_result_metrics"]["reconstruction"]


def test_a_second_run_keeps_results_until_the_activations_change(
    done: tuple[RunContext, Outcome], release: sr.Release
) -> None:
    context, _ = done
    said: list[str] = []

    def again(**changes: Any) -> Outcome:
        said.clear()
        now = context_of(release, context.out, **changes)
        return run_evals(["cross_seed"], now, resume=True, progress=said.append)

    assert again().kept == 8
    # of SAEs on one point, whatever the source has besides
    first = [s for s in context.subjects if "first" in s.sae_id]
    part = replace(context_of(release, context.out), subjects=first)
    examples = run_evals(["examples"], part, resume=True)
    assert examples.kept == 4
    # text plays no part
    assert again(corpus="nowhere").kept == 8
    assert again(source=source(seed=2)).kept == 0
    assert "the SAE differs" in said[-1]


@pytest.mark.parametrize(
    ("evals", "changes", "message"),
    [
        (
            ["cross_seed", "core"],
            {},
            "reads 'first' of 'Counted', and core needs an SAE",
        ),
        (
            ["cross_seed"],
            {"source": None},
            "'Counted' on 'Tensor', was given in Python and cannot be opened by name. Write "
            "its held-out activations with `saereg-bench cache --split heldout`",
        ),
        (["examples"], {"source": source(("first",))}, "no point 'second'"),
        (["cross_seed"], {"source": "nowhere"}, "nor a path that exists"),
    ],
)
def test_what_cannot_be_read_is_refused_before_a_file_is_written(
    release: sr.Release,
    tmp_path: Path,
    evals: list[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    context = context_of(release, tmp_path / "out", **changes)
    with pytest.raises(InputError, match=message):
        run_evals(evals, context)
    assert not context.out.exists()


def test_held_out_inputs_that_were_trained_on_are_refused(
    arrays: Path, tmp_path: Path
) -> None:
    source = sr.ArraySource(arrays / "activations.npy", split="all")
    metadata = source.metadata("activations")
    context = context_of(arrays / "release", tmp_path / "out", source=None)
    with pytest.raises(InputError, match="trained on the split 'all' of .* --source"):
        other_place(context, metadata, d_in=8)
    kept = tmp_path / "cache"
    sr.write_cache(source, kept, split="all")
    named = replace(context, source=str(kept))
    with pytest.raises(InputError, match="holds the split 'all'; expected 'heldout'"):
        other_place(named, metadata, d_in=8)


def test_points_of_a_source_are_opened_and_hashed_together(
    release: sr.Release, tmp_path: Path
) -> None:
    arrays = {"first": torch.randn(50, 8), "second": torch.randn(50, 6)}
    torch.save(arrays, tmp_path / "a.pt")
    known = sr.ArraySource(tmp_path / "a.pt")

    def places(context: RunContext, *points: str) -> list[Place]:
        return [
            other_place(context, known.metadata(point), d_in=known.points[point])
            for point in points
        ]

    context = context_of(release, tmp_path / "out", source=None)
    first, second = places(context, "first", "second")
    assert isinstance(first.source, OtherSource)
    assert second.source == first.source
    one = other_digest(context, first)
    opened = open_other(context, first.source, ["first"])
    assert set(opened.points) == {"first", "second"}
    assert other_digest(context, second) != one
    assert open_other(context, first.source, ["second"]) is opened
    # the other points of a run decide nothing
    alone = context_of(release, tmp_path / "out", source=None)
    assert other_digest(alone, *places(alone, "first")) == one


class Watching:
    """A tally that notes whether the sources of earlier ones are still in memory."""

    earlier: ClassVar[list[ref[Any]]] = []

    def __init__(self, sae: Any) -> None:
        self.sae = sae
        self.alive: list[bool] = []

    def update(self, activations: torch.Tensor, keep: torch.Tensor) -> None:
        gc.collect()
        self.alive = [source() is not None for source in self.earlier]


def test_a_source_is_freed_before_the_next_is_read(
    arrays: Path, tmp_path: Path
) -> None:
    sae: Any = sr.open_release(str(arrays / "release")).load("plain-seed0")
    saes: dict[str, Any] = {}
    for name in ("a", "b"):
        array = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
        np.save(tmp_path / f"{name}.npy", array)
        saes[name] = copy.deepcopy(sae)
        source = sr.ArraySource(tmp_path / f"{name}.npy")
        for field, value in source.metadata("activations").items():
            setattr(saes[name].cfg.metadata, field, value)
    subjects = save_release(tmp_path / "rel", saes)

    def finish(tally: Watching, passed: Passed) -> list[bool]:
        assert passed.inputs is not None
        Watching.earlier.append(ref(passed.inputs.source))
        return tally.alive

    context = RunContext(subjects, tmp_path / "out")
    found, failures = tally_heldout(
        context, subjects, lambda _, sae: Watching(sae), finish
    )
    assert failures == {}
    assert found == {"a": [], "b": [False]}


def test_another_width_is_refused(release: sr.Release, tmp_path: Path) -> None:
    narrow = nn.Sequential()
    narrow.add_module("first", nn.Conv2d(3, 5, 2, stride=2))
    narrow.add_module("second", nn.Conv2d(5, 6, 1))
    context = context_of(release, tmp_path / "out", source=source(network=narrow))
    with pytest.raises(
        InputError, match="d_in=8, but point 'first' .* has 5 dimensions"
    ):
        run_evals(["cross_seed"], context)


def test_a_source_is_not_read_for_a_language_model(tmp_path: Path) -> None:
    sae = tiny_sae("gpt2", HOOK_NAME, torch.zeros(16), 0)
    subjects = save_release(tmp_path / "rel", {"s0": sae})
    context = RunContext(subjects, tmp_path / "out", source=source())
    with pytest.raises(InputError, match="language model 'gpt2', and not the source"):
        run_evals(["meta_structure"], context)


def test_an_sae_that_names_no_source_reads_the_given_one(
    release: sr.Release, tmp_path: Path
) -> None:
    """As SAELens' own trainer saves it when it was fed by batches()."""
    sae: Any = release.load("plain-first-seed0")
    for name in ("model_name", "hook_name", "activation_source", "dataset_path"):
        setattr(sae.cfg.metadata, name, None)
    subjects = save_release(tmp_path / "rel", {"s0": sae})
    context = RunContext(subjects, tmp_path / "out", source=source("first"))
    found = measure_heldout(context)["s0"]
    context = context_of(release, tmp_path / "out")
    assert found == measure_heldout(context)["plain-first-seed0"]


def test_the_run_says_what_is_read_and_chooses_evaluations(
    release: sr.Release,
) -> None:
    subjects = subjects_of(release)
    chosen = choose_corpus(["cross_seed"], subjects, None, heldout_tokens=10)
    assert chosen.said == "Activations: held-out inputs of Counted on Tensor."
    assert default_evals(subjects) == ("cross_seed", "examples")


def test_a_source_inside_the_release_is_refused(release: sr.Release) -> None:
    subject = subjects_of(release)[0]
    assert release.folder is not None
    inside = str(release.folder / "saes")
    for config in ({"kind": "module", "model": inside}, {"data": ["emoji", inside]}):
        named = {"metadata": {"activation_source": {"config": config}}}
        with pytest.raises(InputError, match="inside the release itself"):
            check_model(subject, named, trusted=False)


def test_groups_differ_in_their_source_but_not_in_how_it_is_opened() -> None:
    def config(**fields: Any) -> dict[str, Any]:
        return {"metadata": {"activation_source": {"rows": "cls", **fields}}}

    assert differing_fields(config(config={"a": 1}), config(config={"a": 2})) == {}
    assert differing_fields(config(), config(rows="mean")) == {
        "activation_source.rows": ("cls", "mean")
    }


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with activations of 200 inputs, and a release trained on it by name."""
    folder = tmp_path_factory.mktemp("arrays")
    values = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    np.save(folder / "activations.npy", values)
    named = {"kind": "arrays", "path": str(folder / "activations.npy")}
    trained = sr.train(out=folder / "release", source=named, **SWEEP)
    assert trained.release is not None
    return folder


def test_the_held_out_part_of_a_source_by_name_is_read(
    arrays: Path, tmp_path: Path
) -> None:
    context = context_of(arrays / "release", tmp_path / "out", source=None)
    outcome = run_evals(["cross_seed"], context)
    assert outcome.failures == []
    record = read_result(result_files(context.out)[0])
    assert record["eval_result_metrics"]["heldout"]["alive_n"] == 20


def test_a_path_of_arrays_is_read_wholly_instead(
    arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).normal(size=(30, 2, 8)).astype(np.float32)
    np.save(tmp_path / "other.npy", values)
    out = tmp_path / "out"
    settings = ["--out", str(out), "--option", "cross_seed.n_resamples=20"]
    given = ["--source", str(tmp_path / "other.npy"), "--evals", "cross_seed"]
    release = ["--sae-release", str(arrays / "release")]
    call = ["saereg-bench", "run", *release, *given, *settings]
    monkeypatch.setattr(sys, "argv", call)
    with pytest.raises(SystemExit) as ended:
        command()
    assert not ended.value.code
    record = json.loads(result_files(out)[0].read_text())
    assert record["eval_result_metrics"]["heldout"]["alive_n"] == 60
