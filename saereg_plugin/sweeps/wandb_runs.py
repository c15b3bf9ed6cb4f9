"""Runs of Weights & Biases, one per SAE of a sweep."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import wandb
from sae_lens import LoggingConfig, SAETrainer
from sae_lens.constants import (
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
)
from sae_lens.saes.sae import TrainStepOutput

from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, write_json
from saereg_plugin.owned_folder import OwnedFolder
from saereg_plugin.releases.release import Release
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.members import Member

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

RUNS_FILE = "wandb.json"
"""File in the release folder with the id of each SAE's run, which a resumed training resumes."""
_LONGEST_NAME = 128
"""Characters of an artifact's name and of a group's."""

_log = logging.getLogger(__name__)


@dataclass
class WandbRuns:
    """
    The runs of a sweep's SAEs.

    A run has the metrics, steps and artifacts that SAELens' own trainer logs, and
    ``details/gradient_norm``. By default there is no run, and the methods do nothing. A run
    that breaks while its SAE trains is left with one warning, and the training goes on.
    """

    logger: LoggingConfig = field(
        default_factory=lambda: LoggingConfig(log_to_wandb=False)
    )
    """``wandb_id`` and ``run_name`` begin the ids and names of the runs."""
    runs: dict[str, Run] = field(default_factory=dict)
    """By SAE id."""

    def begin(
        self,
        sweep: SweepConfig,
        members: Sequence[Member],
        folder: Path,
        *,
        name: str,
        fresh: bool,
        progress: Callable[[str], object],
    ) -> None:
        """
        Begin one run per SAE, or resume the runs that the release folder names.

        Args:
            sweep: goes into each run's configuration.
            members: the SAEs.
            folder: the release folder.
            name: the release's name, which is the name of the runs' group.
            fresh: begin new runs.
            progress: gets one line on where the runs are.

        Raises:
            InputError: if wandb refuses a run, for example without a login or a connection.
        """
        if not self.logger.log_to_wandb:
            return
        ids = {} if fresh else _ids(folder)
        try:
            for member in members:
                run_id = ids.get(member.sae_id)
                run = _open(self.logger, sweep, member, name, run_id)
                self.runs[member.sae_id] = run
        except (wandb.Error, OSError, ValueError) as error:
            self.close()
            raise InputError(_refusal(self.logger, error)) from error
        progress(_place(self, name))

    def is_logged(self, step: int) -> bool:
        """Return whether a step, counted from 1, is logged."""
        return bool(self.runs) and step % self.logger.wandb_log_frequency == 0

    @torch.no_grad()
    def log_step(
        self,
        sae_id: str,
        trainer: SAETrainer[Any, Any],
        output: TrainStepOutput,
        gradient_norm: float,
    ) -> None:
        """Log a step just taken, which the trainer has not counted yet, as SAELens does."""
        step = trainer.n_training_steps
        if sae_id not in self.runs:
            return
        samples = trainer.n_training_samples
        values = trainer.build_train_step_log_dict(
            output=output, n_training_samples=samples
        )
        values["details/gradient_norm"] = gradient_norm
        every = self.logger.wandb_log_frequency * self.logger.eval_every_n_wandb_logs
        if (step + 1) % every == 0:
            weights = trainer.sae.log_histograms()
            values |= {name: wandb.Histogram(v) for name, v in weights.items()}
        self.log(sae_id, values, step=step)

    def log(self, sae_id: str, values: Mapping[str, Any], *, step: int) -> None:
        """Log values of one SAE; ``step`` is the number of steps before."""
        if values:
            self._send(sae_id, lambda run: run.log(dict(values), step=step))

    def finish(self, release: Release) -> None:
        """Send the saved SAEs as artifacts and end their runs; other runs count as failed."""
        for entry in release.entries:
            self._send_saved(release, entry.sae_id, entry.path)
            self._end(entry.sae_id, exit_code=0)
        self.close()

    def close(self) -> None:
        """End the runs that are still open, as failed; the same command resumes them."""
        for sae_id in list(self.runs):
            self._end(sae_id, exit_code=1)

    def record(self, owned: OwnedFolder) -> None:
        """Write the ids of the runs into the release folder."""
        if self.runs:
            owned.claim([RUNS_FILE])
            ids = {name: str(run.id) for name, run in self.runs.items()}
            write_json(owned.path / RUNS_FILE, {"runs": {**_ids(owned.path), **ids}})

    def _send_saved(self, release: Release, sae_id: str, path: str) -> None:
        """Send weights, configuration and sparsity of a saved SAE."""
        assert release.folder is not None
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{release.name}-{sae_id}")
        model = [SAE_CFG_FILENAME]
        if self.logger.log_weights_to_wandb:
            model.insert(0, SAE_WEIGHTS_FILENAME)
        for ending, kind, files, aliases in (
            ("", "model", model, ["final_model"]),
            (
                "_log_feature_sparsity",
                "log_feature_sparsity",
                [SPARSITY_FILENAME],
                None,
            ),
        ):
            start = name[: _LONGEST_NAME - len(ending)]
            paths = [release.folder / path / file for file in files]
            self._send(
                sae_id,
                partial(_log_files, start + ending, kind, paths, aliases),
            )

    def _end(self, sae_id: str, *, exit_code: int) -> None:
        self._send(sae_id, lambda run: run.finish(exit_code=exit_code))
        self.runs.pop(sae_id, None)

    def _send(self, sae_id: str, send: Callable[[Run], object]) -> None:
        """Let ``send`` use a run; leave the run with a warning if wandb fails."""
        if sae_id not in self.runs:
            return
        try:
            send(self.runs[sae_id])
        except (wandb.Error, OSError, ValueError) as error:
            del self.runs[sae_id]
            _log.warning(
                "The wandb run of %r ends here: %s. The training goes on, and its records are "
                "complete.",
                sae_id,
                str(error).rstrip("."),
            )


def _log_files(
    name: str, kind: str, paths: Sequence[Path], aliases: list[str] | None, run: Run
) -> None:
    """Send files as an artifact; wandb copies them when they are added."""
    artifact = wandb.Artifact(name, type=kind)
    for path in paths:
        artifact.add_file(str(path))
    run.log_artifact(artifact, aliases=aliases)


def wandb_logger(sweep: SweepConfig, project: str) -> LoggingConfig:
    """Return SAELens' settings for a project, logged as often as the training records."""
    return LoggingConfig(wandb_project=project, wandb_log_frequency=sweep.log_every)


def _open(
    logger: LoggingConfig,
    sweep: SweepConfig,
    member: Member,
    group: str,
    run_id: str | None,
) -> Run:
    """Begin the run of one SAE, or resume the run with this id."""
    prefix = logger.wandb_id or uuid.uuid4().hex[:8]
    parts = filter(None, [logger.run_name, member.sae_id])
    return wandb.init(
        project=logger.wandb_project,
        entity=logger.wandb_entity,
        group=group[:_LONGEST_NAME],
        name="-".join(parts),
        id=run_id or f"{prefix}-{member.sae_id}",
        config={
            "sae_id": member.sae_id,
            "group": member.group,
            "seed": member.seed,
            "sae": member.cfg.to_dict(),
            "sweep": sweep.to_dict(),
        },
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(console="off", silent=True),
    )


def _place(found: WandbRuns, name: str) -> str:
    """Return a sentence on where the runs are."""
    count = len(found.runs)
    runs = "1 run is" if count == 1 else f"{count} runs are"
    first = next(iter(found.runs.values()))
    where = f"project {found.logger.wandb_project!r}, group {name!r}"
    if first.offline:
        folder = Path(first.dir).parents[1]
        return f"Offline, {runs} written to {str(folder)!r} for {where}; 'wandb sync' sends them."
    return f"{runs} logged to {where}: {first.project_url}"


def _refusal(logger: LoggingConfig, error: BaseException) -> str:
    said = "; ".join(line.strip() for line in str(error).splitlines()[:3])
    return (
        f"wandb refuses the runs of project {logger.wandb_project!r}: {said.rstrip('.')}. Nothing "
        "was trained. Log in with 'wandb login', set WANDB_MODE=offline to write the runs to this "
        "disk, or train without --wandb."
    )


def _ids(folder: Path) -> dict[str, str]:
    """Return the ids of earlier runs by SAE id; empty without any."""
    path = folder / RUNS_FILE
    if not path.is_file():
        return {}
    remedy = "Remove it to begin new runs."
    found = read_json(path, remedy=remedy)
    runs = found.get("runs") if isinstance(found, dict) else None
    if not isinstance(runs, dict) or not all(isinstance(v, str) for v in runs.values()):
        raise InputError(f"File {str(path)!r} is damaged. {remedy}")
    return runs
