"""Gains of revived latents against held-out figures and plain losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.revival.comparison import Comparison, compare, patched_losses, verdict
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import heldout_of
from eval_recipes.running.run import subjects_of
from saereg_plugin.releases.opening import register_release
from saereg_plugin.revival.training import Revival, RevivalPlan
from saereg_plugin.sweeps import SweepTrainer, run_sweep
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
    assert "l2: pathological; 16 dead latents" in made.found.verdicts["l2"]


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


@pytest.mark.parametrize(
    ("value", "low", "high", "word"),
    [
        (0.2, 0.1, 0.3, "pathological"),
        (-0.2, -0.3, -0.1, "useful"),
        (0.02, -0.1, 0.1, "no gain shown"),
        (0.2, None, None, "no gain shown"),
        (0.0002, 0.0001, 0.0003, "no gain shown"),
        (-0.0002, -0.0003, -0.0001, "no gain shown"),
    ],
)
def test_the_verdict_goes_by_interval_and_size(
    value: float, low: float | None, high: float | None, word: str
) -> None:
    rows = [
        {
            "figure": "revived_variance_gain",
            "seed": None,
            "value": value,
            "low": low,
            "high": high,
        }
    ]
    told = verdict(Revival("l2", None, 4, {}), rows)
    assert told.startswith(f"l2: {word}; 4 dead latents")
    assert told.endswith("without a control.")


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
