"""Finished runs: their weights, saved as SAEs, and their figures, measured once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from eval_recipes.studies.mnist.checkpoint import load_state_, new_state
from eval_recipes.studies.mnist.evaluation import KEPT_SHARES, Evaluation, evaluate
from eval_recipes.studies.mnist.images import Images
from eval_recipes.studies.mnist.settings import Run, Training
from eval_recipes.studies.mnist.training import CHECKPOINT, identity
from eval_recipes.studies.mnist.weights import Weights, initial_weights
from saereg_plugin.files import sha256, write_json

SAE_FOLDER = "sae"
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Finished:
    """One SAE that has all its epochs."""

    run: Run
    weights: Weights
    evaluation: Evaluation
    history: list[dict[str, float]]


def find_finished(
    runs: Sequence[Run], training: Training, images: Images, out: Path
) -> list[Finished]:
    """
    Return the finished runs; what is missing of their SAE folders and figures is made.

    Raises:
        InputError: if a checkpoint is of other settings.
    """
    found = (_finished(run, training, images, out / run.name) for run in runs)
    return [run for run in found if run is not None]


def _finished(
    run: Run, training: Training, images: Images, folder: Path
) -> Finished | None:
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    described = identity(run, training, images)
    weights = initial_weights(run.setting, training, seed=run.seed)
    state = new_state(weights, training.learning_rate)
    load_state_(path, state, described)
    if state.epoch < training.epochs:
        return None
    checkpoint = sha256(path)
    saved = (folder / SAE_FOLDER).is_dir()
    if not saved or _stored(folder / EVALUATION, checkpoint) is None:
        _publish(weights, described, checkpoint, images.pixels, folder)
    evaluation = _stored(folder / EVALUATION, checkpoint)
    assert evaluation is not None
    return Finished(run, weights, evaluation, state.history)


def _publish(
    weights: Weights,
    described: dict[str, Any],
    checkpoint: str,
    pixels: Tensor,
    folder: Path,
) -> None:
    """Save the SAE, then its figures: whoever finds the figures finds the SAE."""
    # imports SAELens, which takes long
    from eval_recipes.studies.mnist.export import save_sae

    save_sae(weights, described, folder / SAE_FOLDER)
    figures = evaluate(weights, pixels)._asdict()
    write_json(
        folder / EVALUATION,
        {"checkpoint": checkpoint, "kept_shares": KEPT_SHARES, "figures": figures},
    )


def _stored(path: Path, checkpoint: str) -> Evaluation | None:
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    figures: dict[str, Any] = stored["figures"]
    if (
        stored["checkpoint"] != checkpoint
        or stored["kept_shares"] != [*KEPT_SHARES]
        or {*figures} != {*Evaluation._fields}
    ):
        return None
    return Evaluation(**figures)
