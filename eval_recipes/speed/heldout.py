"""Speed of the held-out pass with sparse encodings, against dense ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sae_lens import SAE

from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.heldout import HeldOutTally
from eval_recipes.running.heldout_pass import tally_heldout
from eval_recipes.running.run import subjects_of
from eval_recipes.speed.measurement import Row, SpeedConfig, interleaved, timed_rows
from saereg_plugin.errors import InputError

SUITE = "heldout"
SPARSE, DENSE = "saereg", "sae.encode"
TOKENS = 8_192


def heldout_rows(config: SpeedConfig, *, tokens: int = TOKENS) -> Iterator[Row]:
    """
    Measure all SAEs of ``config.release`` on held-out text, in turns: the model's pass and ours.

    Raises:
        InputError: without a release.
        RuntimeError: if an SAE has no figures.
    """
    if config.release is None:
        raise InputError(
            f"The suite {SUITE!r} measures the SAEs of a release, and none is named; add for "
            "example --release saereg-demo/release."
        )
    subjects = subjects_of(config.release)
    models = ModelCache()

    def measure(*, sparse: bool) -> None:
        # a context of its own: a run would keep the rows of an earlier pass
        context = RunContext(
            subjects=subjects,
            out=Path(),
            models=models,
            heldout_tokens=tokens,
            device=config.device,
        )
        _, failures = tally_heldout(
            context,
            subjects,
            _starting(sparse=sparse),
            lambda tally, passed: tally.figures(passed, seed=config.seed),
        )
        if failures:
            raise RuntimeError(f"No held-out figures: {failures}")

    case = f"{len(subjects)} SAEs, {tokens} tokens"
    timed = interleaved(
        {
            SPARSE: lambda: measure(sparse=True),
            DENSE: lambda: measure(sparse=False),
        },
        repeats=config.repeats,
        device=config.device,
        label=case,
    )
    work = float(len(subjects) * tokens)
    yield from timed_rows(
        SUITE, case, timed, work=work, unit="tokens/s", seed=config.seed
    )


def _starting(*, sparse: bool) -> Callable[[str, SAE[Any]], HeldOutTally]:
    return lambda _, sae: HeldOutTally(sae, sparse=sparse)
