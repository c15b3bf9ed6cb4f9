"""What is checked before anything is computed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval_recipes.context import RunContext, Subject
from eval_recipes.registry import RECIPES
from eval_recipes.results import result_path
from eval_recipes.running import run_evals, subjects_of
from eval_recipes.saebench.recipe import each_subject
from saereg_plugin.errors import InputError
from saereg_plugin.releases import Release, write_release
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae


def subjects(
    folder: Path, *, d_in: int = 576, hook: str = HOOK_NAME, n: int = 2
) -> list[Subject]:
    model = "smollm2-135m-instruct"
    saes = {f"s{i}": tiny_sae(model, hook, torch.zeros(d_in), i) for i in range(n)}
    return save_release(folder, saes)


@pytest.mark.parametrize(
    ("evals", "message"),
    [
        ([], f"No evaluation was named. Known: {', '.join(RECIPES)}."),
        (["core", "cros_seed"], "Unknown evaluation 'cros_seed'. Did you mean 'cross_"),
        (["scrr"], "Unknown evaluation 'scrr'."),
        (["ravel"], "Evaluation 'ravel' is unavailable: SAEBench 0.6 downloads"),
        (["core", "mdl"], "Evaluation 'mdl' is unavailable: SAEBench 0.6 imports lo"),
    ],
)
def test_unknown_evaluation_is_refused(
    tmp_path: Path, evals: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run_evals(evals, RunContext([], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_evaluation_of_weights_asks_for_no_model(tmp_path: Path) -> None:
    sae = tiny_sae("a-model-nobody-knows", HOOK_NAME, torch.zeros(16), 0)
    context = RunContext(
        save_release(tmp_path / "weights", {"s0": sae}),
        tmp_path / "out",
        corpus="no/such-corpus",
        artifacts=tmp_path / "artifacts",
        options={"meta_structure": {"train_steps": 2, "train_batch_size": 32}},
    )
    outcome = run_evals(["meta_structure", "meta_structure"], context)
    assert outcome.failures == []
    assert outcome.frame["sae_id"].unique().tolist() == ["s0"]
    with pytest.raises(InputError, match="'a-model-nobody-knows'"):
        run_evals(["sae_probes"], context)


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"d_in": 512},
            "SAE 's0' has d_in=512, but 'blocks.2.hook_resid_post' of model "
            "'smollm2-135m-instruct' has 576 dimensions.",
        ),
        (
            {"hook": "blocks.2.hook_resid_pst"},
            "has no hook 'blocks.2.hook_resid_pst'. Did you mean 'blocks.2.hook_resid_post'?",
        ),
    ],
)
def test_sae_that_does_not_fit_its_model_is_refused(
    tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    context = RunContext(subjects(tmp_path / "rel", **changes), tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=re.escape(message)):
        run_evals(["core", "cross_seed"], context)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("model_name")
def test_every_evaluation_is_checked_before_the_first_one_runs(tmp_path: Path) -> None:
    context = RunContext(subjects(tmp_path / "rel", n=1), tmp_path / "out")
    with pytest.raises(InputError, match="Group 'tiny' has a single seed"):
        run_evals(["core", "cross_seed"], context)
    context.options["core"] = {"batches": 3}
    with pytest.raises(InputError, match="Unknown core option 'batches'"):
        run_evals(["core", "cross_seed"], context)
    context.options.clear()
    with pytest.raises(InputError, match="'./no-such' does not exist"):
        run_evals(["core"], replace(context, corpus="./no-such"))
    assert list((tmp_path / "out").iterdir()) == []


def test_release_without_saes_is_refused(tmp_path: Path) -> None:
    write_release(Release("nothing-in-it", "m", (), tmp_path))
    with pytest.raises(InputError, match="Release 'nothing-in-it' holds no SAE"):
        subjects_of(str(tmp_path))


def test_an_old_result_goes_when_the_turn_of_its_sae_comes(tmp_path: Path) -> None:
    subjects = [Subject("rel", f"s{seed}", "g", seed) for seed in range(4)]
    paths = [result_path(tmp_path, "core", s.release, s.sae_id) for s in subjects]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text("old")

    def evaluate(subject: Subject) -> None:
        if subject.seed == 0:
            raise ValueError("no")
        if subject.seed == 1:
            paths[1].write_text("new")
        if subject.seed == 2:
            raise KeyboardInterrupt

    context = RunContext(subjects, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        each_subject("core", context, evaluate)
    assert [path.read_text() if path.exists() else None for path in paths] == [
        None,
        "new",
        None,
        "old",
    ]
    # an SAE that failed has no result, the others theirs
    context.subjects = subjects[:2]
    (failure,) = each_subject("core", context, evaluate)
    assert (failure.sae_id, failure.cause) == ("s0", "ValueError: no")
    assert not paths[0].exists() and paths[1].read_text() == "new"
