"""What is checked before anything is computed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval_recipes.registry import RECIPES, load_evaluation
from eval_recipes.results.files import result_path
from eval_recipes.results.subject import Subject
from eval_recipes.running.check import check_sources, require_space
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.running.run import run_evals, subjects_of
from saereg_plugin.errors import InputError
from saereg_plugin.releases.release import Release, write_release
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
        (
            ["core", "unlearning"],
            "Evaluation 'unlearning' is unavailable: SAEBench 0.6 has prompts",
        ),
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
    assert not (tmp_path / "out").exists()


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
    assert not (tmp_path / "out").exists()


def test_release_without_saes_is_refused(tmp_path: Path) -> None:
    write_release(Release("nothing-in-it", "m", (), tmp_path))
    with pytest.raises(InputError, match="Release 'nothing-in-it' holds no SAE"):
        subjects_of(str(tmp_path))


def test_an_old_result_stays_until_its_successor_is_there(tmp_path: Path) -> None:
    subjects = [Subject("rel", f"s{seed}", "g", seed) for seed in range(4)]
    paths = [result_path(tmp_path, "core", s.release, s.sae_id) for s in subjects]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text("old")

    class Failing(Evaluation[None]):
        name = "core"

        def write(self, context: RunContext, subject: Subject, output: Any) -> Path:
            path = self.path(context, subject)
            path.write_text(output)
            return path

        def evaluate(self, context: Any, subject: Subject, options: None) -> Any:
            if subject.seed == 0:
                raise ValueError("no")
            if subject.seed == 2:
                raise KeyboardInterrupt
            return "new"

    context = RunContext(subjects, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Failing().evaluate_all(context, None)
    assert [path.read_text() for path in paths] == ["old", "new", "old", "old"]
    context.subjects = subjects[:2]
    (failure,) = Failing().evaluate_all(context, None)
    assert (failure.sae_id, failure.cause) == ("s0", "ValueError: no")
    assert [path.read_text() for path in paths] == ["old", "new", "old", "old"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heldout_tokens": 0}, "heldout_tokens is 0; expected an integer from 1"),
        ({"heldout_tokens": 2.5}, "heldout_tokens is 2.5; expected an integer"),
        ({"batch_size_prompts": 1 << 40}, "batch_size_prompts is 1099511627776; exp"),
        ({"context_size": 1}, "context_size is 1; expected an integer from 2"),
        ({"seed": -1}, "seed is -1; expected an integer from 0"),
        ({"seed": 1 << 32}, "seed is 4294967296; expected an integer from 0"),
        ({"memory_gib": float("nan")}, "The memory bound is nan GiB"),
        ({"dtype": "int8"}, "Models cannot compute in dtype 'int8'"),
        ({"device": "tpu9"}, "Unknown device 'tpu9'"),
    ],
)
def test_an_impossible_setting_is_refused_at_once(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    context = replace(RunContext([], tmp_path / "out"), **changes)
    with pytest.raises(InputError, match=re.escape(message)):
        run_evals(["core"], context)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"heldout_tokens": 10**12},
            "heldout_tokens is 1,000,000,000,000, but the held-",
        ),
        ({"context_size": 1 << 20}, "context_size is 1,048,576, but model 'smollm2"),
        (
            {"options": {"autointerp": {"llm_context_size": 1 << 20}}},
            "option autointerp.llm_context_size is 1,048,576, but model",
        ),
    ],
)
def test_more_than_text_or_model_have_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    context = replace(
        RunContext(subjects(tmp_path / "rel"), tmp_path / "out"), **changes
    )
    with pytest.raises(InputError, match=re.escape(message)):
        check_sources(context, [load_evaluation("core"), load_evaluation("autointerp")])


@pytest.mark.usefixtures("model_name")
def test_contexts_are_held_against_what_will_be_read(tmp_path: Path) -> None:
    """The SAE's arguments decide what the model reads, an evaluation's option its contexts."""
    sae = tiny_sae("smollm2-135m-instruct", HOOK_NAME, torch.zeros(576), 0)
    sae.cfg.metadata.context_size = 1 << 20
    long = RunContext(save_release(tmp_path / "long", {"s0": sae}), tmp_path / "out")
    check_sources(long, [load_evaluation("autointerp")])
    with pytest.raises(InputError, match="context_size of SAE 's0' is 1,048,576"):
        check_sources(long, [load_evaluation("core"), load_evaluation("autointerp")])
    sae.cfg.metadata.model_from_pretrained_kwargs = {"n_ctx": 1 << 20}
    wide = RunContext(save_release(tmp_path / "wide", {"s0": sae}), tmp_path / "out")
    check_sources(wide, [load_evaluation("core")])


def test_results_that_the_disk_has_no_room_for_are_refused(tmp_path: Path) -> None:
    require_space(tmp_path / "new" / "out", 1)
    with pytest.raises(InputError, match=r"results take 931322574\.6 GiB or more"):
        require_space(tmp_path, 10**18)


def test_a_file_of_the_users_in_a_results_folder_is_refused(
    tmp_path: Path,
) -> None:
    sae = tiny_sae("a-model-nobody-knows", HOOK_NAME, torch.zeros(16), 0)
    context = RunContext(
        save_release(tmp_path / "weights", {"s0": sae}),
        tmp_path / "out",
        corpus="no/such-corpus",
        artifacts=tmp_path / "artifacts",
        options={"meta_structure": {"train_steps": 2, "train_batch_size": 32}},
    )
    context.out.mkdir()
    (context.out / "thesis").write_text("mine")
    with pytest.raises(InputError, match="files that this package did not write: 'th"):
        run_evals(["meta_structure"], context)
    (context.out / "thesis").unlink()
    run_evals(["meta_structure"], context)
    (context.out / "thesis").write_text("mine")
    run_evals(["meta_structure"], context)
    assert (context.out / "thesis").read_text() == "mine"
    (context.out / "vocabulary").mkdir()
    layers = context.out / "vocabulary" / "layers.csv"
    layers.write_text("mine")
    with pytest.raises(InputError, match="layers.csv' was not written by this package"):
        run_evals(["vocabulary"], context)
    assert layers.read_text() == "mine"


def test_a_result_that_lies_elsewhere_in_the_folder_is_refused(tmp_path: Path) -> None:
    sae = tiny_sae("a-model-nobody-knows", HOOK_NAME, torch.zeros(16), 0)
    context = RunContext(
        save_release(tmp_path / "weights", {"s0": sae}),
        tmp_path / "out",
        options={"meta_structure": {"train_steps": 2, "train_batch_size": 32}},
    )
    run_evals(["meta_structure"], context)
    own = result_path(context.out, "meta_structure", "weights", "s0")
    copy = context.out / "copy" / own.name
    copy.parent.mkdir()
    copy.write_bytes(own.read_bytes())
    with pytest.raises(InputError, match="holds a result that this run writes into"):
        run_evals(["meta_structure"], context)
