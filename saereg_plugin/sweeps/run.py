"""Training of a sweep into a release folder, resumable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from sae_lens import LoggingConfig

from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.activations.source import ActivationSource
from saereg_plugin.errors import InputError
from saereg_plugin.files import writing_into
from saereg_plugin.html import html_block
from saereg_plugin.machine import AUTO
from saereg_plugin.owned_folder import MARK, OwnedFolder, open_owned, require_owned
from saereg_plugin.process import stop_on_signal
from saereg_plugin.releases.hashes import verify_files
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.records import RECORDS
from saereg_plugin.releases.release import KIND, MANIFEST, Release, read_release
from saereg_plugin.sweeps.checkpoint import (
    CHECKPOINT,
    PROGRESS,
    SWEEP_FILE,
    Checkpoint,
    claim_folder,
    has_checkpoints,
    identity,
    newest_checkpoint,
    note_no_checkpoint,
    remove_checkpoints,
    require_recorded_device,
    require_same_sweep,
    settled,
)
from saereg_plugin.sweeps.config import SweepConfig, sweep_from
from saereg_plugin.sweeps.members import Member, expand
from saereg_plugin.sweeps.plan import require_disk, required_memory
from saereg_plugin.sweeps.records import require_record
from saereg_plugin.sweeps.saving import release_files, release_name, save_release
from saereg_plugin.sweeps.source import with_source
from saereg_plugin.sweeps.trainer import (
    LOCK,
    WRITE_REMEDY,
    SweepTrainer,
    open_trainer,
    record_name,
)
from saereg_plugin.sweeps.wandb_runs import RUNS_FILE, WandbRuns

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepResult:
    """Outcome of a sweep; ``release`` is None if it was interrupted."""

    release: Release | None
    stopped: list[str]
    """One line per SAE that was taken out."""
    seconds: float

    def _repr_html_(self) -> str:
        title = f"Trained in {self.seconds:.0f} s" if self.seconds else "Trained before"
        if self.release is None:
            title = "Interrupted; the same call resumes from the checkpoint"
        stopped = pd.DataFrame({"stopped": self.stopped})
        shown = html_block(title, stopped)
        return shown if self.release is None else shown + self.release._repr_html_()


def train(
    sweep: SweepConfig | ActivationSource | None = None,
    *,
    out: str | Path,
    name: str | None = None,
    fresh: bool = False,
    logger: LoggingConfig | None = None,
    progress: Callable[[str], object] = _log.warning,
    **fields: Any,
) -> SweepResult:
    """
    Train a grid of SAEs on one stream of activations into a release folder.

    The same call resumes an interrupted run. ``d_in`` follows from the hook. Example::

        import saereg_plugin as sr

        trained = sr.train(
            out="my-release",
            hook_name="blocks.2.hook_resid_post",
            sae={"architecture": "regularized_topk", "d_sae": 1536, "k": 32},
            groups={
                "plain": {},
                "l2": {"regularizers": [{"name": "weight_penalty", "coefficient": 6e-3}]},
            },
            seeds=[0, 1],
            tokens=300_000,
        )
        sae = trained.release.load("l2-seed0")

    Args:
        sweep: what to train; or leave it out and give the fields of ``SweepConfig``. Or the
            source of the activations, such as ``ModuleSource``, with these fields.
        out: the release folder: new, empty, or of an earlier run.
        name: the release's name; by default that of the folder.
        fresh: train anew; the files that an earlier run wrote into ``out`` are removed.
        logger: SAELens' settings of Weights & Biases: one run per SAE, in a group named as
            the release. By default there are no runs.
        progress: gets one line if training resumes or was finished before.
        fields: fields of ``SweepConfig`` by name.

    Returns:
        the release, open for ``load``, and the SAEs that were taken out.

    Raises:
        InputError: see ``run_sweep``; also for a sweep and fields together.
    """
    source = None
    if isinstance(sweep, ActivationSource):
        sweep, source = None, sweep
    if sweep is not None and fields:
        raise InputError(
            f"train got a sweep and {', '.join(map(repr, fields))}; expected one of both. Put "
            "the fields into the SweepConfig."
        )
    sweep = sweep_from(fields, source="train") if sweep is None else sweep
    result = run_sweep(
        sweep,
        Path(out),
        name=name,
        fresh=fresh,
        logger=logger,
        progress=progress,
        source=source,
    )
    if result.release is not None:
        register_release(Path(out))
    return result


def run_sweep(
    sweep: SweepConfig,
    folder: Path,
    *,
    name: str | None = None,
    fresh: bool = False,
    logger: LoggingConfig | None = None,
    progress: Callable[[str], object] = _log.warning,
    source: ActivationSource | None = None,
    begin: Callable[[SweepTrainer], object] | None = None,
) -> SweepResult:
    """
    Train a sweep into a folder; resume an interrupted run.

    Args:
        sweep: what to train.
        folder: the release folder: new, empty, or of an earlier run.
        name: the release's name; by default that of the folder.
        fresh: train anew. The files that an earlier run wrote into the folder are removed.
        logger: as in ``train``.
        progress: gets a line on what is trained and where it resumes, or that it was
            finished before.
        source: of the activations, instead of what the sweep names.
        begin: changes the initial weights, before the first step; the sweep names in
            ``started_from`` what they are then.

    Raises:
        InputError: if the sweep cannot work, or does not fit memory or disk; if wandb refuses
            a run; or if the folder is not ours or not writable, holds another sweep, or has
            an unusable checkpoint. It is raised before the language model is loaded or a file changed.
        WriteError: if a file cannot be written; the last checkpoint is kept.
    """
    if sweep.finetune:
        raise InputError(
            f"The sweep is that of a release fine-tuned from {sweep.finetune.get('release')!r}; "
            "expected no field 'finetune'. Fine-tune with 'saereg-bench finetune', or leave the field out."
        )
    if sweep.started_from and begin is None:
        raise InputError(
            "The sweep starts from trained SAEs (started_from); expected a call of the command that "
            "wrote it, such as `saereg-bench revive` or `pool`. Leave the field out to train from the start."
        )
    if fresh or not _is_readable_release(folder):
        require_owned(folder, KIND)
    left_open = sweep.device == AUTO
    name = release_name(sweep, folder, name)
    sweep = settled(sweep, None if fresh else folder)
    sweep, facts = with_source(sweep, source)
    members = expand(sweep, facts)
    return train_members(
        sweep,
        members,
        facts,
        folder,
        partial(
            _open_started,
            begin=begin,
            facts=facts,
            given=source,
            fresh=fresh,
            members=members,
        ),
        name=name,
        left_open=left_open,
        fresh=fresh,
        logger=logger,
        progress=progress,
    )


def train_members(
    sweep: SweepConfig,
    members: list[Member],
    facts: SourceFacts,
    folder: Path,
    open_here: Callable[..., SweepTrainer],
    *,
    name: str,
    left_open: bool = False,
    fresh: bool = False,
    logger: LoggingConfig | None = None,
    progress: Callable[[str], object],
) -> SweepResult:
    """
    Train SAEs into a folder that is ours, or resume; a finished release is only checked.

    Args:
        sweep: settled, see ``settled``.
        members: its SAEs.
        facts: of its source.
        folder: the release folder.
        open_here: makes the trainer, from the sweep and the keyword ``folder``.
        name: of the release.
        left_open: whether the device was left to the machine.
        fresh, logger, progress: as in ``run_sweep``.

    Raises:
        InputError, WriteError: as ``run_sweep``.
    """
    finished = None if fresh else _finished(sweep, folder)
    if finished is None:
        if left_open:
            require_recorded_device(sweep, folder)
        required_memory(sweep, members, facts)
        require_disk(sweep, members, folder)
        owned = open_owned(folder, KIND)
        with _only_process(owned):
            return _train(
                sweep,
                members,
                owned,
                open_here,
                name=name,
                fresh=fresh,
                logger=logger,
                progress=progress,
            )
    if _is_marked(folder) and has_checkpoints(OwnedFolder(folder, KIND)):
        # the run was killed before its last act
        with _only_process(OwnedFolder(folder, KIND)) as owned:
            remove_checkpoints(owned)
    return _say_finished(finished, progress)


def _open_started(
    sweep: SweepConfig, *, begin: Callable[[SweepTrainer], object] | None, **rest: Any
) -> SweepTrainer:
    """Open a trainer whose weights ``begin`` changes before the first step."""
    trainer = open_trainer(sweep, **rest)
    trainer.begin = begin
    return trainer


def _is_marked(folder: Path) -> bool:
    return (folder / MARK).is_file()


def _is_readable_release(folder: Path) -> bool:
    """Return whether the folder is a release of an earlier version, without a mark."""
    release = (folder / MANIFEST).is_file() and (folder / SWEEP_FILE).is_file()
    return release and not _is_marked(folder)


def _say_finished(release: Release, progress: Callable[[str], object]) -> SweepResult:
    count = len(release.entries)
    what = "The SAE" if count == 1 else f"All {count} SAEs"
    verb = "is" if count == 1 else "are"
    progress(
        f"{what} of release {release.name!r} {verb} trained already; --fresh trains anew."
    )
    return SweepResult(release, release.provenance.get("stopped", []), 0.0)


def _finished(sweep: SweepConfig, folder: Path) -> Release | None:
    """Return the release if an earlier run of the same sweep finished it; check its files."""
    require_same_sweep(sweep, folder)
    if not (folder / MANIFEST).is_file():
        return None
    release = read_release(folder)
    for entry in release.entries:
        verify_files(folder, entry.path)
    return release


def _train(
    sweep: SweepConfig,
    members: list[Member],
    owned: OwnedFolder,
    open_here: Callable[..., SweepTrainer],
    *,
    name: str,
    fresh: bool = False,
    logger: LoggingConfig | None = None,
    progress: Callable[[str], object],
) -> SweepResult:
    """Train in a locked folder, which another process may have finished just before."""
    earlier = None if fresh else _finished(sweep, owned.path)
    if earlier is not None:
        return _say_finished(earlier, progress)
    started = time.perf_counter()
    runs = WandbRuns() if logger is None else WandbRuns(logger)

    def begin_runs() -> WandbRuns:
        runs.begin(
            sweep, members, owned.path, name=name, fresh=fresh, progress=progress
        )
        return runs

    with closing(runs), writing_into(owned.path, remedy=WRITE_REMEDY):
        trainer, finished = _train_steps(
            sweep,
            members,
            owned,
            open_here,
            begin_runs,
            fresh=fresh,
            progress=progress,
        )
        trainer.take_out_broken()
        seconds = time.perf_counter() - started
        release = None
        if finished:
            release = save_release(trainer, name=name, seconds=seconds)
            remove_checkpoints(owned)
            runs.finish(release)
    return SweepResult(release, [str(s) for s in trainer.stopped], seconds)


def _train_steps(
    sweep: SweepConfig,
    members: list[Member],
    owned: OwnedFolder,
    open_here: Callable[..., SweepTrainer],
    begin_runs: Callable[[], WandbRuns],
    *,
    fresh: bool,
    progress: Callable[[str], object],
) -> tuple[SweepTrainer, bool]:
    """Return the trainer, and False if a stop was requested."""
    written = owned.files() - {LOCK}
    is_new = not any((owned.path / name).exists() for name in written)
    trainer = None
    try:
        checkpoint = _usable_checkpoint(sweep, members, owned, fresh=fresh)
        progress(_settings(sweep, members))
        # before the language model is loaded
        runs = begin_runs()
        trainer = open_here(sweep, folder=owned.path)
        trainer.runs = runs
        claim_folder(sweep, owned)
        runs.record(owned)
        if checkpoint is None:
            note_no_checkpoint(owned)
        if trainer.resume(checkpoint) and checkpoint is not None:
            resumes = f"Resumes at step {trainer.step:,} of {sweep.steps:,}."
            progress(" ".join([*checkpoint.passed_over, resumes]))
        with stop_on_signal() as stop:
            finished = trainer.train(stop)
            if finished:
                trainer.log_last_window()
                _require_room(trainer)
            return trainer, finished
    except InputError:
        if is_new and (trainer is None or trainer.step == 0):
            # the folder stays free for the corrected command
            owned.abandon()
        raise
    finally:
        if trainer is not None:
            trainer.stream.close()


def _settings(sweep: SweepConfig, members: list[Member]) -> str:
    """Return a sentence with the settings that a sweep may leave to the machine."""
    products = "with" if sweep.autocast else "without"
    saes = "1 SAE" if len(members) == 1 else f"{len(members)} SAEs"
    return (
        f"Trains {saes} for {sweep.steps:,} steps of {sweep.batch_size:,} tokens on {sweep.device} "
        f"{products} autocast; {_model_in(sweep)}."
    )


def _model_in(sweep: SweepConfig) -> str:
    if sweep.source is None:
        return f"the language model is in {sweep.llm_dtype}"
    return f"activations come from {sweep.model} on {sweep.corpus}"


def _require_room(trainer: SweepTrainer) -> None:
    """Refuse files in the release's place; a checkpoint keeps the training."""
    try:
        trainer.owned.require_free(
            release_files(member.sae_id for member in trainer.members)
        )
    except InputError as error:
        trainer.save_checkpoint()
        raise InputError(
            f"{error} The training is kept in a checkpoint: once the file is moved, the same "
            "command saves the release."
        ) from error


def _usable_checkpoint(
    sweep: SweepConfig,
    members: list[Member],
    owned: OwnedFolder,
    *,
    fresh: bool = False,
) -> Checkpoint | None:
    """Return the checkpoint to resume from; refuse damaged files and files that are not ours."""
    sae_ids = [member.sae_id for member in members]
    owned.require_plain(CHECKPOINT)
    owned.require_free([SWEEP_FILE, RUNS_FILE, *release_files(sae_ids)])
    if fresh:
        return None
    checkpoint = newest_checkpoint(owned, identity(sweep, sae_ids))
    if checkpoint is not None:
        for sae_id in sae_ids:
            part = checkpoint.records[sae_id]
            require_record(owned.path / record_name(sae_id), part)
    else:
        _require_told(owned, SWEEP_FILE, "of which sweep")
        _require_told(owned, PROGRESS, "whether there was a checkpoint")
    return checkpoint


def _require_told(owned: OwnedFolder, file: str, what: str) -> None:
    """Refuse training records without a file that is written before them."""
    if (owned.path / file).is_file():
        return
    for name in sorted(owned.files()):
        if name.startswith(f"{RECORDS}/") and (owned.path / name).is_file():
            raise InputError(
                f"Folder {str(owned.path)!r} has training records, but {file!r} is missing, so it "
                f"cannot be told {what}. Put the file back, or remove the folder to train from the "
                "start."
            )


@contextmanager
def _only_process(owned: OwnedFolder) -> Iterator[OwnedFolder]:
    """Refuse a folder in which another process trains."""
    owned.claim([LOCK])
    lock = FileLock(owned.path / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Another process is training in {str(owned.path)!r}; wait for it, or choose another folder."
        ) from error
    try:
        yield owned
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
