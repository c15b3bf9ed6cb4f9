"""The study of KL fine-tuning: its measure against plain loops, and a tiny run of all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from eval_recipes.running.activation_source import source_of
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import heldout_store, token_batches
from eval_recipes.running.run import subjects_of
from eval_recipes.studies.finetune.behaviour import (
    FILE,
    ContextLosses,
    intervals,
    measure,
)
from eval_recipes.studies.finetune.study import STUDY, Size, small_plan
from eval_recipes.studies.framework.run import run_study
from saereg_plugin.releases.opening import open_release
from saereg_plugin.sources import models
from tests.conftest import TRAINED_HOOK

TINY = Size(
    d_sae=64,
    k=4,
    tokens=40 * 128,
    batch_size=128,
    seeds=(0, 1),
    tuned_tokens=4 * 128,
    lr=1e-3,
    contexts_per_step=2,
    heldout_tokens=1024,
    evals=("cross_seed",),
)


@pytest.mark.slow
def test_losses_are_those_of_plain_loops_over_tokens(
    tmp_path: Path, trained_release: Any, calm_model_folder: Path
) -> None:
    assert trained_release.folder is not None
    context = RunContext(
        subjects=subjects_of(trained_release), out=tmp_path / "out", heldout_tokens=512
    )
    (tmp_path / "figures").mkdir()
    found = measure(context, tmp_path)
    assert measure(context, tmp_path) == found
    assert list(found) == trained_release.ids
    assert (tmp_path / FILE).is_file()

    model = models.load(str(calm_model_folder)).eval()
    one = trained_release.ids[0]
    tokens = heldout_tokens(context, trained_release.load(one), model)
    assert tokens.shape == (2, 64)
    sae = trained_release.load(one)
    for number, text in enumerate(tokens):
        ce, clean_ce, kl, predictions, counted = plainly(model, sae, text)
        losses = found[one]
        assert losses.ce[number] == pytest.approx(ce, rel=1e-4)
        assert losses.clean_ce[number] == pytest.approx(clean_ce, rel=1e-4)
        assert losses.kl[number] == pytest.approx(kl, rel=1e-3)
        assert losses.predictions[number] == predictions
        assert losses.tokens[number] == counted


def heldout_tokens(
    context: RunContext, sae: Any, model: HookedTransformer
) -> torch.Tensor:
    source = source_of(sae, context_size=None)
    store = heldout_store(model, sae, source, corpus=context.corpus)
    return torch.cat(list(token_batches(store, contexts=2, batch_size=1)))


@torch.no_grad()
def plainly(
    model: HookedTransformer, sae: Any, text: torch.Tensor
) -> tuple[float, float, float, int, int]:
    special = set(model.tokenizer.all_special_ids)  # pyright: ignore[reportOptionalMemberAccess]

    def put(value: torch.Tensor, hook: Any) -> torch.Tensor:
        del hook
        value = value.clone()
        for place, token in enumerate(text.tolist()):
            if token not in special:
                value[0, place] = sae(value[0, place][None])[0]
        return value

    p = model(text[None])[0].log_softmax(-1)
    q = model.run_with_hooks(text[None], fwd_hooks=[(TRAINED_HOOK, put)])[0]
    q = q.log_softmax(-1)
    ce = clean_ce = kl = 0.0
    predictions = counted = 0
    for place, token in enumerate(text.tolist()):
        if token in special:
            continue
        kl += float((p[place].exp() * (p[place] - q[place])).sum())
        counted += 1
        if place + 1 < len(text) and int(text[place + 1]) not in special:
            following = int(text[place + 1])
            ce -= float(q[place, following])
            clean_ce -= float(p[place, following])
            predictions += 1
    return ce, clean_ce, kl, predictions, counted


def test_changes_are_paired_by_context() -> None:
    before = ContextLosses(
        [5.0, 50.0, 8.0], [1.0, 40.0, 2.0], [2, 2, 2], [3, 30, 9], [3, 3, 3]
    )
    after = replace(before, ce=[4.0, 49.0, 7.0], kl=[2.0, 29.0, 8.0])
    found = intervals(after, before)
    assert found["ce_gap"].value == pytest.approx((3 + 9 + 5) / 6)
    assert found["ce_gap"].low != found["ce_gap"].high
    # every context changes by the same, whatever its own loss
    for name, change in (("ce_gap_change", -1 / 2), ("kl_change", -1 / 3)):
        assert found[name].value == pytest.approx(change)
        assert found[name].ends == pytest.approx((change, change))
    assert set(intervals(after)) == {"ce_gap", "kl"}
    with pytest.raises(ValueError, match="same contexts"):
        intervals(after, replace(before, clean_ce=[0.0, 0.0, 0.0]))


@pytest.mark.slow
def test_a_tiny_study_runs_and_resumes(tmp_path: Path, calm_model_folder: Path) -> None:
    size = replace(
        TINY,
        changes={
            "model": str(calm_model_folder),
            "hook_name": "blocks.1.hook_resid_post",
            "context_size": 64,
            "prompts_per_pass": 4,
            "buffer_tokens": 1024,
            "llm_dtype": "float32",
            "autocast": False,
        },
    )
    study = replace(STUDY, plan=lambda _: small_plan(size))
    lines: list[str] = []
    run = run_study(
        study, "small", tmp_path / "out", device="cpu", progress=lines.append
    )
    assert run.finished
    assert run.failures == run.stopped == []
    assert run.table is not None
    groups = list(dict.fromkeys(run.frame["group"]))
    assert groups == ["none", "l2", "none-mse", "l2-mse", "none-kl", "l2-kl"]
    page = run.table.read_text(encoding="utf-8")
    assert "CE gap" in page
    assert "| l2-kl-seed1 |" in page
    changes: Any = run.frame[run.frame["metric"] == "figures/ce_gap_change"]
    assert len(changes) == 8
    assert (changes["low"] <= changes["value"]).all()
    assert set(changes["stage"]) == {"mse", "kl"}
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(report["groups"]) == 6
    for stage, loss in (("mse", "mse"), ("kl", "kl+mse")):
        release = open_release(str(tmp_path / "out" / "releases" / stage))
        tuned = release.provenance["sweep"]["finetune"]
        assert tuned["loss"] == loss
        assert release.provenance["tokens"] == 4 * 128
    again = run_study(study, "small", tmp_path / "out", device="cpu")
    assert again.table_frame.equals(run.table_frame)
