"""The effect of a KL fine-tune, at a small size."""

from __future__ import annotations

from pathlib import Path

import pytest

import saereg_plugin as sr
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import subjects_of
from eval_recipes.statistics.interval import Interval
from eval_recipes.studies.finetune.behaviour import ContextLosses, intervals, measure
from saereg_plugin.sweeps import SweepConfig, run_sweep

STEP = 4 * 64


def trained(folder: Path) -> Path:
    """
    A TopK SAE of the embedded model, at the study's learning rate and k.

    The model is whole, as the cut one predicts no text: its cross entropy may fall with a
    worse reconstruction. The SAE is trained until squared error has little left to gain.
    """
    sweep = SweepConfig(
        sae={
            "architecture": "regularized_topk",
            "d_sae": 512,
            "k": 32,
            "decoder_constraint": "unit_norm",
            "normalize_activations": "expected_average_only_in",
        },
        groups={"topk": {}},
        seeds=[0],
        tokens=300 * 512,
        batch_size=512,
        context_size=64,
        prompts_per_pass=8,
        buffer_tokens=8192,
        llm_dtype="float32",
        autocast=False,
        device="cpu",
        lr=1e-3,
    )
    assert run_sweep(sweep, folder).release is not None
    return folder


def losses(release: Path, out: Path) -> ContextLosses:
    """The losses of its only SAE on 32 held-out contexts."""
    (out / "figures").mkdir(parents=True)
    subjects = subjects_of(str(release))
    context = RunContext(subjects=subjects, out=out, heldout_tokens=4 * 32 * 64)
    (found,) = measure(context, out).values()
    assert len(found.ce) == 32
    return found


@pytest.mark.slow
def test_the_ce_gap_falls_by_kl_and_not_by_as_much_squared_error(
    tmp_path: Path, model_name: str
) -> None:
    assert model_name == SweepConfig.model
    source = trained(tmp_path / "before")
    before = losses(source, tmp_path / "losses-before")
    found: dict[str, dict[str, Interval]] = {}
    for loss in ("kl+mse", "mse"):
        # at a fifth of the training's rate, as in the study
        result = sr.finetune(
            source,
            out=tmp_path / loss,
            loss=loss,
            tokens=16 * STEP,
            contexts_per_step=4,
            lr=2e-4,
            device="cpu",
        )
        assert result.release is not None and result.stopped == []
        after = losses(tmp_path / loss, tmp_path / f"losses-{loss}")
        found[loss] = intervals(after, before)
    assert found["kl+mse"]["ce_gap_change"].ends[1] < 0
    assert found["kl+mse"]["kl_change"].ends[1] < 0
    low, high = found["mse"]["ce_gap_change"].ends
    assert not high < 0
    # the two intervals lie apart
    assert low > found["kl+mse"]["ce_gap_change"].ends[1]
