"""Trainer of all SAEs of a sweep, interruptible between steps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAETrainer
from sae_lens.saes.sae import TrainStepOutput
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from tqdm.auto import tqdm

from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.activations.source import ActivationSource
from saereg_plugin.activations.stream import ActivationStream
from saereg_plugin.errors import InputError
from saereg_plugin.files import writing_into
from saereg_plugin.owned_folder import OwnedFolder, open_owned
from saereg_plugin.process import StopFlag
from saereg_plugin.regularizers.mutual_features import link_groups, unlink
from saereg_plugin.releases.records import RECORDS
from saereg_plugin.releases.release import KIND
from saereg_plugin.sweeps.checkpoint import (
    STREAM,
    Checkpoint,
    checkpoint_folder,
    identity,
    newest_checkpoint,
    settled,
    write_checkpoint,
)
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.members import (
    Member,
    build_sae,
    needs_token_order,
    trainer_config,
)
from saereg_plugin.sweeps.records import (
    STOPPED,
    GradientNorm,
    Stopped,
    append_record,
    cut_record,
    non_finite_loss,
    record_size,
    require_record,
    step_record,
)
from saereg_plugin.sweeps.source import mixing_of, open_sweep_source, with_source
from saereg_plugin.sweeps.wandb_runs import WandbRuns

LOCK = ".lock"
"""Lock of the process that trains into a release folder."""

WRITE_REMEDY = (
    "Free space or raise the limit on file sizes, and run the same command again; it resumes from "
    "the last checkpoint."
)


def record_name(sae_id: str) -> str:
    """Return the name of an SAE's training record in the release folder."""
    return f"{RECORDS}/{sae_id}.jsonl"


@dataclass
class SweepTrainer:
    """
    Drives SAELens' public ``MultiSAETrainer`` step by step.

    A stop request takes effect between steps. One checkpoint holds all SAEs at the same
    step and the stream of activations. A resumed run equals an uninterrupted run.

    Attributes:
        owned: the release folder.
        source: of the activations.
        stopped: SAEs that were taken out because a loss was not finite.
        runs: runs of Weights & Biases that get each step; none by default.
        begin: changes the initial weights, before the first step.
    """

    sweep: SweepConfig
    members: list[Member]
    source: ActivationSource
    owned: OwnedFolder
    stopped: list[Stopped] = field(default_factory=list)
    runs: WandbRuns = field(default_factory=WandbRuns)
    begin: Callable[[SweepTrainer], object] | None = None

    def __post_init__(self) -> None:
        self.owned.claim(record_name(member.sae_id) for member in self.members)
        self._trainer = MultiSAETrainer(
            cfg=trainer_config(self.sweep, self.owned.path),
            saes={
                member.sae_id: build_sae(member, self.sweep, self.source)
                for member in self.members
            },
            hook_names={member.sae_id: member.point for member in self.members},
            data_provider=iter(()),
        )
        link_groups(
            self._trainer.saes, {member.sae_id: member.group for member in self.members}
        )
        self._gradient_norms = {
            name: GradientNorm(trainer.sae) for name, trainer in self.trainers.items()
        }
        self._points = {member.sae_id: member.point for member in self.members}
        self.stream: ActivationStream = self.source.stream(
            mixing_of(self.sweep),
            points=list(dict.fromkeys(self._points.values())),
            count_pairs=any(map(needs_token_order, self.members)),
        )
        self._checkpoint_step: int | None = None
        self._resumed_at = 0

    @property
    def folder(self) -> Path:
        """The release folder's path."""
        return self.owned.path

    @property
    def trainers(self) -> dict[str, SAETrainer[Any, Any]]:
        """SAELens' trainers of the SAEs that are still training, by SAE id."""
        out = {stopped.sae_id for stopped in self.stopped}
        return {
            name: t for name, t in self._trainer.trainers.items() if name not in out
        }

    @property
    def step(self) -> int:
        """Completed steps."""
        return self._trainer.n_training_steps

    def train(self, stop: StopFlag, *, steps: int | None = None) -> bool:
        """
        Train to the end, or by ``steps`` steps.

        Returns:
            False if a stop was requested; then a checkpoint was written.
        """
        if self.step == 0:
            self._begin()
        last = (
            self.sweep.steps
            if steps is None
            else min(self.sweep.steps, self.step + steps)
        )
        self._resumed_at, self._started = self.step, time.perf_counter()
        with tqdm(
            total=self.sweep.steps * self.sweep.batch_size,
            initial=self.step * self.sweep.batch_size,
            desc=f"Training {len(self.trainers)} SAEs",
            unit="tok",
            unit_scale=True,
        ) as progress:
            while self.step < last and self.trainers:
                self._one_step()
                progress.update(self.sweep.batch_size)
                if stop.requested:
                    self.save_checkpoint()
                    return False
                if self.step % self.sweep.checkpoint_every == 0 and self.step < last:
                    self.save_checkpoint()
        return True

    def save_checkpoint(self) -> None:
        """
        Write all SAEs, their optimisers and the stream, then remove the old checkpoint.

        Raises:
            WriteError: if it cannot be written; the old checkpoint is kept.
        """
        self.take_out_broken()
        with writing_into(self.folder, remedy=WRITE_REMEDY):
            write_checkpoint(
                self.owned,
                self.step,
                of=self._identity,
                records=self.sync_records(),
                write=self._write_state,
            )
        self._checkpoint_step = self.step

    def resume(self, checkpoint: Checkpoint | None = None) -> bool:
        """
        Resume from a checkpoint, by default the newest; return False without a checkpoint.

        Raises:
            InputError: if no checkpoint can be used.
        """
        if checkpoint is None:
            checkpoint = newest_checkpoint(self.owned, self._identity)
        self.owned.recover()
        if checkpoint is None:
            for member in self.members:
                cut_record(self._record_file(member.sae_id), 0)
            return False
        state = torch.load(checkpoint.folder / STREAM, weights_only=True)
        self._require_same_source(state.get("source"))
        self.stopped = [Stopped(**stopped) for stopped in state["stopped"]]
        for stopped in self.stopped:
            unlink(self._trainer.saes[stopped.sae_id])
        for name, trainer in self.trainers.items():
            trainer.load_trainer_state(checkpoint.folder / name)
            trainer.sae.load_weights_from_checkpoint(checkpoint.folder / name)
        for member in self.members:
            path = self._record_file(member.sae_id)
            part = checkpoint.records[member.sae_id]
            require_record(path, part)
            cut_record(path, part["bytes"])
        self.stream.load_state_dict(state["stream"])
        self._trainer.n_training_steps = checkpoint.step
        self._checkpoint_step = checkpoint.step
        return True

    def sync_records(self) -> dict[str, dict[str, Any]]:
        """Wait until the training records are on the disk; return their sizes and hashes."""
        return {
            member.sae_id: record_size(self._record_file(member.sae_id))
            for member in self.members
        }

    def take_out_broken(self) -> None:
        """Take out the SAEs with a weight that is not finite."""
        for name, trainer in self.trainers.items():
            if not all(bool(p.isfinite().all()) for p in trainer.sae.parameters()):
                self.take_out(name, "a weight", step=self.step)

    def take_out(self, name: str, loss: str, *, step: int) -> None:
        """Take out an SAE whose ``loss`` is not finite in ``step``; keep its checkpoint."""
        if self._checkpoint_step is not None:
            # the next checkpoint will not have this SAE
            last_good = self.folder / checkpoint_folder(self._checkpoint_step) / name
            with self.owned.write_folder(f"{STOPPED}/{name}") as temporary:
                shutil.copytree(last_good, temporary, dirs_exist_ok=True)
        stopped = Stopped(name, step, loss, self._checkpoint_step)
        self.stopped.append(stopped)
        unlink(self._trainer.saes[name])
        append_record(
            self._record_file(name),
            {"step": step, "event": "stopped", "reason": str(stopped)},
        )

    def log_last_window(self) -> None:
        """Log the densities of the last window, which is not reset, as SAELens does."""
        for name, trainer in self.trainers.items():
            window = trainer.full_sparsity_window_log()
            self.runs.log(name, window, step=trainer.n_training_steps)

    def _digest(self) -> str | None:
        """Return the digest of the source; a language model is named in the sweep."""
        return None if self.sweep.source is None else self.source.digest()

    def _require_same_source(self, digest: str | None) -> None:
        """Refuse to resume on a source whose weights or data changed."""
        if digest != self._digest():
            raise InputError(
                f"The activations of {self.sweep.corpus!r} are not those of the checkpoint in "
                f"{str(self.folder)!r}: model or data changed since. Put them back, or train anew with "
                "--fresh."
            )

    @property
    def _identity(self) -> dict[str, Any]:
        return identity(self.sweep, [member.sae_id for member in self.members])

    def _write_state(self, folder: Path) -> None:
        for name, trainer in self.trainers.items():
            trainer.save_checkpoint(name, base_path=folder)
        torch.save(
            {
                "stream": self.stream.state_dict(),
                "source": self._digest(),
                "stopped": [vars(stopped) for stopped in self.stopped],
            },
            folder / STREAM,
        )

    def _one_step(self) -> None:
        batch = next(self.stream)
        recording = self._is_recorded(self.step + 1)
        logging = self.runs.is_logged(self.step + 1)
        for name, trainer in self.trainers.items():
            window = trainer.maybe_reset_sparsity()
            self.runs.log(name, window, step=trainer.n_training_steps)
            self._gradient_norms[name].active = recording or logging
            lr = float(trainer.optimizer.param_groups[0]["lr"])
            output = self._step_of(trainer, batch, self._points[name])
            bad = non_finite_loss(output)
            if bad is not None:
                self.take_out(name, bad, step=self.step + 1)
                continue
            norm = self._gradient_norms[name].take()
            if logging:
                self.runs.log_step(name, trainer, output, norm)
            trainer.n_training_steps += 1
            if recording:
                self._record(name, trainer, output, lr, norm)
        self._trainer.n_training_steps += 1

    def _begin(self) -> None:
        """Estimate the scales of activations and change initial weights, before the first step."""
        _scale_activations(self.trainers, self._points, self.stream)
        if self.begin is not None:
            self.begin(self)

    def _step_of(
        self, trainer: SAETrainer[Any, Any], batch: Any, point: str
    ) -> TrainStepOutput:
        """Take one step of one SAE on what the stream yielded."""
        return trainer.step(batch[point])

    def _is_recorded(self, step: int) -> bool:
        """Return whether a step, counted from 1, is recorded: also the first and the last."""
        return step % self.sweep.log_every == 0 or step in (1, self.sweep.steps)

    def _record(
        self,
        name: str,
        trainer: SAETrainer[Any, Any],
        output: TrainStepOutput,
        lr: float,
        gradient_norm: float,
    ) -> None:
        steps = self.step + 1 - self._resumed_at
        seconds = time.perf_counter() - self._started
        record = step_record(
            trainer,
            output,
            step=self.step + 1,
            lr=lr,
            gradient_norm=gradient_norm,
            tokens_per_second=steps * self.sweep.batch_size / seconds,
        )
        append_record(self._record_file(name), record)

    def _record_file(self, name: str) -> Path:
        return self.folder / record_name(name)


def open_trainer(
    sweep: SweepConfig,
    members: list[Member],
    folder: Path,
    facts: SourceFacts | None = None,
    *,
    given: ActivationSource | None = None,
    fresh: bool = False,
) -> SweepTrainer:
    """
    Open the source of the activations, and make the trainer.

    ``facts`` are those that ``with_source`` returned, and ``given`` is the source if Python code gave
    it. With ``fresh`` the files of an earlier run are then removed from the folder; they stay if
    the source cannot be opened.
    """
    if facts is None:
        sweep, facts = with_source(sweep, given)
    sweep = settled(sweep, None if fresh else folder)
    torch.manual_seed(sweep.seed)
    count_pairs = any(map(needs_token_order, members))
    source = open_sweep_source(sweep, facts, given=given, count_pairs=count_pairs)
    owned = open_owned(folder, KIND)
    if fresh:
        owned.remove(owned.files() - {LOCK})
    return SweepTrainer(sweep, members, source, owned)


def _scale_activations(
    trainers: Mapping[str, SAETrainer[Any, Any]],
    points: Mapping[str, str],
    stream: ActivationStream,
) -> None:
    """
    Estimate each SAE's factor or whitening from the waiting activations, as SAELens does.

    A factor is equal for all SAEs of one point and is estimated once.
    """
    factors: dict[str, float | None] = {}
    for name, trainer in trainers.items():
        point = points[name]
        cfg, scaler = trainer.sae.cfg, trainer.activation_scaler
        if cfg.normalize_activations == "covariance_whitening":
            scaler.estimate_whitening(
                cfg.d_in, iter([stream.peek()[point]]), n_batches_for_norm_estimate=1
            )
        elif cfg.normalize_activations == "expected_average_only_in":
            if point not in factors:
                scaler.estimate_scaling_factor(
                    cfg.d_in,
                    iter([stream.peek()[point]]),
                    n_batches_for_norm_estimate=1,
                )
                factors[point] = scaler.scaling_factor
            scaler.scaling_factor = factors[point]
