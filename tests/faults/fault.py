"""A fault: what is wrong, the command that meets it, and how that must end."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from eval_recipes import cli
from tests.eval_recipes.chat.openai_server import JudgeServer

TRAIN = (
    "train --model {model} --hook blocks.0.hook_resid_post --d-sae 64 --k 4 "
    "--tokens 4096 --batch-size 512 --seed 0 --seed 1"
)
"""Train two seeds in eight steps; ``--out`` is missing."""
CORE = (
    "--option core.n_eval_reconstruction_batches=1 "
    "--option core.n_eval_sparsity_variance_batches=1 --option core.eval_batch_size_prompts=2"
)
SMALL = f"{CORE} --heldout-tokens 2000 --artifacts {{here}}/artifacts"
"""Options that make core and cross_seed small; without core leave ``CORE`` out."""
RESUMED = "run --sae-release {release} --out {results} --evals core,cross_seed " + SMALL
RUN = f"{RESUMED} --fresh"
"""Also where results are there already."""


@dataclass(frozen=True)
class Place:
    """Where one fault happens: copies that may be damaged, in the current folder."""

    here: Path
    """The current folder, new and empty but for the copies."""
    model: Path
    """A small language model; not a copy."""
    release: Path
    """A release of two seeds of one group."""
    results: Path
    """Results of core and cross_seed on it."""
    judge: JudgeServer
    """A chat model on loopback; the environment holds its key."""


def _nothing(place: Place) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row of the campaign."""

    name: str
    """What is wrong, in words."""
    row: str
    """Name of the defect that it stands for, such as "D3", or "message"."""
    command: str
    """Words of the command after ``saereg-bench``; {here}, {model}, {release}, {results},
    {judge}."""
    status: int
    """Exit status that the docs promise."""
    words: str
    """Regular expression that the output must match, white space collapsed."""
    arrange: Callable[[Place], None] = _nothing
    """Makes the fault."""
    holds: Callable[[Place], None] = _nothing
    """Asserts what must be true afterwards, such as that the user's file is still there."""
    slow: bool = False


def run_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run ``saereg-bench`` in this process; return its exit status and all it printed."""
    monkeypatch.setattr(sys, "argv", ["saereg-bench", *shlex.split(command)])
    status = 0
    capfd.readouterr()
    # The command's own handler stays away where pytest has one.
    log = logging.StreamHandler()
    log.setLevel(logging.WARNING)
    logging.getLogger().addHandler(log)
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        logging.getLogger().removeHandler(log)
    out, err = capfd.readouterr()
    return status, " ".join(f"{out}\n{err}".split())
