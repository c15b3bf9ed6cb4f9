"""Gains of revived latents against held-out figures and plain losses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.revival.comparison import Comparison, compare, patched_losses
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import heldout_of
from eval_recipes.running.run import subjects_of
from saereg_plugin.releases.opening import register_release
from saereg_plugin.revival.training import Revival, RevivalPlan
from saereg_plugin.sweeps import SweepTrainer, run_sweep
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.sweeps.tiny import BATCH, HOOK, PENALTY, tiny_sweep
from tests.sweeps.tiny import SAE as TINY

UNIT = {**TINY, "decoder_constraint": "unit_norm"}
ARMS = ("l2-revived", "l2-continued", "l2-matched-widened", "l2-matched-continued")
DEAD = torch.tensor([*range(8), *range(64, 72)])
"""Latents of the first eight principal directions, on both sides."""


def principal(trainer: SweepTrainer) -> None:
    """
    Make every SAE of principal directions; in ``l2-continued`` the first of them are dead.

    The arms of the control are the same.
    """
    x = trainer.stream.peek()[HOOK].double()
    mean = x.mean(0)
    _, directions = torch.linalg.eigh(torch.cov(x.T))
    rows = directions[:, -64:].flip(1).T.float()
    rows = torch.cat([rows, -rows])
    for name, each in trainer.trainers.items():
        with torch.no_grad():
            each.sae.W_dec.copy_(rows)
            each.sae.W_enc.copy_(rows.T)
            each.sae.b_dec.copy_(mean.float())
            if name.startswith("l2-continued"):
                each.sae.b_enc[DEAD] = -1e6


class Made(NamedTuple):
    plan: RevivalPlan
    context: RunContext
    found: Comparison


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Arms whose gain is known: sixteen latents that matter, and a control that gains nothing."""
    folder = tmp_path_factory.mktemp("comparison")
    sweep = tiny_sweep(
        sae={**UNIT, "normalize_activations": "none"},
        groups={arm: {} for arm in ARMS},
        tokens=BATCH,
        lr=1e-12,
    )
    run_sweep(sweep, folder / "arms", begin=principal)
    dead = {f"l2-seed{seed}": DEAD for seed in (0, 1)}
    one = Revival("l2", "l2-matched", len(DEAD), dead)
    plan = RevivalPlan(sweep, (one,), {}, {})
    context = RunContext(
        subjects_of(str(folder / "arms")), folder / "out", heldout_tokens=1024
    )
    return Made(plan, context, compare(plan, context, loss_contexts=4))


def row(made: Made, figure: str, seed: int | None) -> dict[str, Any]:
    frame = made.found.frame
    at = frame["seed"].isna() if seed is None else frame["seed"] == seed
    (found,) = frame.loc[at & (frame["figure"] == figure)].to_dict("records")
    return {str(key): value for key, value in found.items()}


def test_a_gain_is_the_difference_of_held_out_explained_variances(made: Made) -> None:
    table = heldout_of(made.context)
    gains = []
    for seed in (0, 1):
        revived, base = (
            table[f"l2-{arm}-seed{seed}"] for arm in ("revived", "continued")
        )
        gain = revived.explained_variance - base.explained_variance
        assert row(made, "revived_variance_gain", seed)["value"] == pytest.approx(
            gain, abs=1e-9
        )
        gains.append(gain)
    mean = row(made, "revived_variance_gain", None)
    assert mean["value"] == pytest.approx(np.mean(gains), abs=1e-9)
    assert mean["low"] <= mean["value"] <= mean["high"]
    assert mean["n"] == 16


def test_the_gain_over_the_control_is_a_difference_of_gains(made: Made) -> None:
    for kind in ("variance", "loss"):
        own, other = (
            row(made, f"{name}_{kind}_gain", None)["value"]
            for name in ("revived", "control")
        )
        over = row(made, f"{kind}_gain_over_control", None)["value"]
        assert over == pytest.approx(own - other)


def test_dead_latents_that_are_missed_are_pathological(made: Made) -> None:
    for seed in (0, 1, None):
        gain = row(made, "revived_variance_gain", seed)
        assert 0 < gain["low"] <= gain["value"] <= gain["high"]
        assert row(made, "fire_again", seed)["value"] == 1.0
    assert row(made, "fire_again", None)["n"] == 32
    told = made.found.verdicts["l2"]
    assert told.startswith(
        "l2: pathological; of 16 dead latents given back to each SAE 100 %"
    )
    assert "nats a token; minus the gain of as many more latents" in told


def test_gains_per_latent_are_gains_over_their_number(made: Made) -> None:
    for name in ("revived_variance_gain", "variance_gain_over_control"):
        whole, each = row(made, name, None), row(made, f"{name}_per_latent", None)
        for end in ("value", "low", "high"):
            assert each[end] == pytest.approx(whole[end] / len(DEAD))


def test_a_single_context_shows_no_gain(made: Made) -> None:
    context = RunContext(made.context.subjects, made.context.out, heldout_tokens=64)
    found = compare(made.plan, context, loss_contexts=0)
    gains = found.frame.loc[found.frame["figure"] == "revived_variance_gain"]
    assert (gains["n"] == 1).all() and gains["low"].isna().all()
    assert (gains["value"] > 0.01).all()
    assert "no gain shown" in found.verdicts["l2"]


def test_a_control_that_did_not_change_gains_nothing(made: Made) -> None:
    for figure in ("control_variance_gain", "control_loss_gain"):
        gain = row(made, figure, None)
        assert gain["value"] == gain["low"] == gain["high"] == 0


def test_the_patched_loss_equals_that_of_the_logits(made: Made) -> None:
    subject = made.context.subjects[0]
    sae = subject.load()
    model = made.context.models.get(
        str(sae.cfg.metadata.model_name), dtype="float32", device="cpu"
    )
    tokens = torch.randint(
        100, 2000, (2, 12), generator=torch.Generator().manual_seed(0)
    )
    tokens[:, 0] = model.tokenizer.bos_token_id  # pyright: ignore[reportOptionalMemberAccess]
    found = patched_losses(made.context, sae, tokens)

    def patch(x: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        made_of = sae.decode(sae.encode(x))
        return torch.cat([x[:, :1], made_of[:, 1:]], dim=1)

    with torch.no_grad():
        logits = model.run_with_hooks(
            tokens, fwd_hooks=[(str(sae.cfg.metadata.hook_name), patch)]
        ).double()
    for context in range(2):
        expected = 0.0
        for place in range(11):
            scores = logits[context, place].log_softmax(-1)
            expected -= float(scores[tokens[context, place + 1]])
        assert found[context] == pytest.approx(expected, rel=1e-4)


def gains_on_heads(
    made: Made, model: HookedTransformer, folder: Path, *, by_head: bool
) -> dict[Any, float]:
    """Compare two SAEs on heads, half of whose latents are dead in one."""
    saes: dict[str, Any] = {}
    name = "smollm2-135m-instruct"
    for arm in ("revived", "continued"):
        sae = tiny_sae(
            name, "blocks.2.attn.hook_z", torch.zeros(576), 0, by_head=by_head
        )
        if arm == "continued":
            sae.b_enc.data[:128] = -1e6
        saes[f"l2-{arm}-seed0"] = sae
    subjects = save_release(folder, saes)
    assert subjects[0].load().hook_z_reshaping_mode is by_head
    assert not subjects[0].load_flat().hook_z_reshaping_mode
    context = RunContext(subjects, folder, heldout_tokens=128)
    context.models.hold(model, name, dtype="float32", device="cpu")
    one = Revival("l2", None, 128, {"l2-seed0": torch.arange(128)})
    plan = RevivalPlan(replace(made.plan.sweep, seeds=(0,)), (one,), {}, {})
    frame = compare(plan, context, loss_contexts=2).frame
    return frame.loc[frame["seed"] == 0].set_index("figure")["value"].to_dict()


def test_saes_that_join_heads_themselves_gain_the_same(
    made: Made, model: HookedTransformer, tmp_path: Path
) -> None:
    plain, joined = (
        gains_on_heads(made, model, tmp_path / str(by_head), by_head=by_head)
        for by_head in (False, True)
    )
    assert joined == plain
    assert plain["revived_loss_gain"] != 0 and 0 < plain["fire_again"] < 1


def silenced(trainer: SweepTrainer) -> None:
    """Let half of the latents never fire."""
    for each in trainer.trainers.values():
        with torch.no_grad():
            each.sae.b_enc[:64] = -1e6


def test_the_command_trains_measures_and_writes(tmp_path: Path) -> None:
    groups = {"l2": {"regularizers": [PENALTY]}}
    run_sweep(tiny_sweep(sae=UNIT, groups=groups), tmp_path / "own", begin=silenced)
    control = tiny_sweep(
        sae=UNIT,
        groups={"l2-matched": {"d_sae": 64}},
        matched_to={"l2-matched": "own/l2"},
    )
    run_sweep(control, tmp_path / "control")
    out = tmp_path / "revived"
    words = ["revive", str(tmp_path / "own"), "--control", str(tmp_path / "control")]
    words += ["--latents", "8", "--steps", "4", "--dead-after", "12", "--out", str(out)]
    words += ["--heldout-tokens", "512", "--loss-contexts", "2", "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    written = json.loads((out / "revival.json").read_text())
    assert set(written["verdicts"]) == {"l2"}
    assert {one["seed"] for one in written["rows"]} == {0, 1, None}
    assert len(register_release(out / "release").entries) == 8
