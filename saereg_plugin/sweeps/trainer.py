"""Train the SAEs of a sweep side by side, interruptible between steps."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAETrainer
from sae_lens.saes.sae import TrainStepOutput
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from tqdm.auto import tqdm

from saereg_plugin.files import atomic_path
from saereg_plugin.linking import link_groups, unlink
from saereg_plugin.sweeps.building import build_sae, trainer_config
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.interruption import StopFlag
from saereg_plugin.sweeps.members import Member
from saereg_plugin.sweeps.records import (
    GradientNorm,
    append_record,
    step_record,
    truncate_records,
)
from saereg_plugin.sweeps.scaling import scale_activations
from saereg_plugin.sweeps.stopped import STOPPED, Stopped, non_finite_loss
from saereg_plugin.sweeps.stream import ActivationStream

CHECKPOINT = "checkpoint"
RECORDS = "records"
_STREAM = "stream.pt"


@dataclass
class SweepTrainer:
    """
    Drives SAELens' public ``MultiSAETrainer`` step by step.

    SAELens' runners leave nothing usable when they are interrupted; here a stop request
    is honoured between steps, and one checkpoint under a fixed name holds all SAEs at the
    same step, the stream of activations included.

    Attributes:
        stopped: SAEs taken out because a loss was not finite; the others go on.
    """

    sweep: SweepConfig
    members: list[Member]
    stream: ActivationStream
    folder: Path
    stopped: list[Stopped] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._trainer = MultiSAETrainer(
            cfg=trainer_config(self.sweep, self.folder),
            saes={
                member.sae_id: build_sae(member, self.sweep) for member in self.members
            },
            hook_names={member.sae_id: self.sweep.hook_name for member in self.members},
            data_provider=iter(()),
        )
        link_groups(
            self._trainer.saes,
            {member.sae_id: member.group for member in self.members},
        )
        self._gradient_norms = {
            name: GradientNorm(trainer.sae) for name, trainer in self.trainers.items()
        }
        self._checkpoint_step: int | None = None
        self._resumed_at = 0

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

    def scale_activations(self) -> None:
        """Estimate how activations are to be scaled from those that are waiting."""
        scale_activations(self.trainers, self.stream)

    def train(self, stop: StopFlag, *, steps: int | None = None) -> bool:
        """
        Train to the end, or by ``steps`` steps.

        Returns:
            False if a stop was requested; then a checkpoint was written.
        """
        if self.step == 0:
            self.scale_activations()
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
        """Write all SAEs, their optimisers and the stream; the old checkpoint goes last."""
        self.take_out_broken()
        with atomic_path(self.folder / CHECKPOINT) as temporary:
            for name, trainer in self.trainers.items():
                trainer.save_checkpoint(name, base_path=temporary)
            torch.save(
                {
                    "stream": self.stream.state_dict(),
                    "step": self.step,
                    "stopped": [vars(stopped) for stopped in self.stopped],
                },
                temporary / _STREAM,
            )
        self._checkpoint_step = self.step

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one; return whether there was."""
        folder = self.folder / CHECKPOINT
        self._tidy_checkpoints()
        if not (folder / _STREAM).is_file():
            for name in self.trainers:
                truncate_records(self._record_file(name), last_step=0)
            return False
        state = torch.load(folder / _STREAM, weights_only=True)
        self.stopped = [Stopped(**stopped) for stopped in state["stopped"]]
        for stopped in self.stopped:
            unlink(self._trainer.saes[stopped.sae_id])
        for name, trainer in self.trainers.items():
            trainer.load_trainer_state(folder / name)
            trainer.sae.load_weights_from_checkpoint(folder / name)
            truncate_records(self._record_file(name), last_step=state["step"])
        self.stream.load_state_dict(state["stream"])
        self._trainer.n_training_steps = state["step"]
        self._checkpoint_step = state["step"]
        return True

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint of a finished sweep."""
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)

    def take_out_broken(self) -> None:
        """Take out the SAEs that the last step left with a weight that is not finite."""
        for name, trainer in self.trainers.items():
            if not all(bool(p.isfinite().all()) for p in trainer.sae.parameters()):
                self._take_out(name, "a weight", step=self.step)

    def _tidy_checkpoints(self) -> None:
        """Remove what a process left that was killed while it wrote a checkpoint."""
        for path in self.folder.glob(f".{CHECKPOINT}.*.old"):
            if (self.folder / CHECKPOINT).exists():
                shutil.rmtree(path)
            else:
                # killed between the two renames: this is the last whole checkpoint
                path.rename(self.folder / CHECKPOINT)
        for path in self.folder.glob(f".{CHECKPOINT}.*.tmp"):
            shutil.rmtree(path)

    def _one_step(self) -> None:
        batch = next(self.stream)
        recording = (self.step + 1) % self.sweep.log_every == 0 or self.step == 0
        for name, trainer in self.trainers.items():
            trainer.maybe_reset_sparsity()
            self._gradient_norms[name].active = recording
            lr = float(trainer.optimizer.param_groups[0]["lr"])
            output = trainer.step(batch)
            bad = non_finite_loss(output)
            if bad is not None:
                self._take_out(name, bad, step=self.step + 1)
                continue
            trainer.n_training_steps += 1
            if recording:
                self._record(name, trainer, output, lr)
        self._trainer.n_training_steps += 1

    def _record(
        self,
        name: str,
        trainer: SAETrainer[Any, Any],
        output: TrainStepOutput,
        lr: float,
    ) -> None:
        steps = self.step + 1 - self._resumed_at
        seconds = time.perf_counter() - self._started
        record = step_record(
            trainer,
            output,
            step=self.step + 1,
            lr=lr,
            gradient_norm=self._gradient_norms[name].take(),
            tokens_per_second=steps * self.sweep.batch_size / seconds,
        )
        append_record(self._record_file(name), record)

    def _take_out(self, name: str, loss: str, *, step: int) -> None:
        last_good = self.folder / CHECKPOINT / name
        if last_good.is_dir():
            # the next checkpoint will not have this SAE
            with atomic_path(self.folder / STOPPED / name) as temporary:
                shutil.copytree(last_good, temporary)
        stopped = Stopped(name, step, loss, self._checkpoint_step)
        self.stopped.append(stopped)
        unlink(self._trainer.saes[name])
        append_record(
            self._record_file(name),
            {"step": step, "event": "stopped", "reason": str(stopped)},
        )

    def _record_file(self, name: str) -> Path:
        return self.folder / RECORDS / f"{name}.jsonl"
