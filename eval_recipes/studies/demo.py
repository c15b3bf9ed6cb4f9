"""The demo: train with and without L2 on three seeds, and compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from eval_recipes.running.context import RunContext
from eval_recipes.running.run import Outcome, run_evals, subjects_of
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.sweeps import SweepConfig, SweepResult, run_sweep

PLAIN = "none"
L2 = "l2"

DEMO_SWEEP = SweepConfig(
    hook_name="blocks.2.hook_resid_post",
    sae={
        "architecture": "regularized_topk",
        "d_sae": 1536,
        "k": 32,
        "decoder_constraint": "unit_norm",
        "normalize_activations": "expected_average_only_in",
    },
    groups={
        PLAIN: {},
        L2: {
            "regularizers": [
                {
                    "name": "weight_penalty",
                    "norm": "l2",
                    "target": "both",
                    "coefficient": 6e-3,
                }
            ]
        },
    },
    seeds=(0, 1, 2),
    tokens=307_200,
    batch_size=1024,
    llm_dtype="bfloat16",
    autocast=True,
    lr=1e-3,
    lr_warm_up_steps=20,
)
"""Chosen by measuring on two cores: docs/demo.md has the measurements."""

DEMO_EVALS = ("core", "cross_seed", "examples")


def train_demo(
    out: Path, *, device: str = "cpu", progress: Callable[[str], object]
) -> SweepResult:
    """
    Train the demo's SAEs into ``out/release``; an interrupted demo resumes.

    Raises:
        InputError: if ``out`` holds the user's files.
    """
    # release and results have marks of their own
    open_owned(out, "demo")
    sweep = replace(DEMO_SWEEP, device=device)
    return run_sweep(sweep, out / "release", name="saereg-demo", progress=progress)


def evaluate_demo(
    out: Path, *, device: str = "cpu", progress: Callable[[str], None]
) -> Outcome:
    """Evaluate the demo's SAEs into ``out/results``; results that are current are kept."""
    context = RunContext(
        subjects=subjects_of(str(out / "release")),
        out=out / "results",
        heldout_tokens=32_768,
        device=device,
    )
    return run_evals(DEMO_EVALS, context, resume=True, progress=progress)
