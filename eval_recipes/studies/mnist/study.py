"""Train what is missing of the study, one SAE after the other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.mnist.checkpoint import State
from eval_recipes.studies.mnist.images import Images
from eval_recipes.studies.mnist.settings import STUDY, Run, Training
from eval_recipes.studies.mnist.training import CHECKPOINT, train

logger = logging.getLogger(__name__)


def train_all(
    runs: Sequence[Run], training: Training, images: Images, out: Path
) -> None:
    """
    Train every run to its last epoch, in order; finished ones cost only a look.

    Raises:
        InputError: if ``out`` holds the user's files, is not writable, holds runs with other
            settings, or is in use by another process.
    """
    with (
        study_folder(out, *STUDY) as owned,
        tqdm(total=len(runs) * training.epochs, unit="epoch") as progress,
    ):
        mark_folder(out, *STUDY)
        for run in runs:
            progress.set_description(run.name)
            before = progress.n

            def report(state: State, before: int = before) -> None:
                # a resumed run begins with more than one epoch done
                progress.update(before + state.epoch - progress.n)
                last = state.history[-1]
                progress.set_postfix_str(
                    f"mse {last['mse']:.5f}, density {last['density']:.3f}, "
                    f"{last['seconds']:.0f} s an epoch"
                )

            claim = partial(owned.claim, [f"{run.name}/{CHECKPOINT}"])
            train(
                run,
                training,
                images,
                out / run.name,
                before_writing=claim,
                on_epoch=report,
            )
            progress.update(before + training.epochs - progress.n)
