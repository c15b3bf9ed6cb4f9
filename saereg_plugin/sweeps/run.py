"""From a sweep's configuration to a release folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from saereg_plugin import corpora, models
from saereg_plugin.errors import InputError
from saereg_plugin.files import require_writable, write_json
from saereg_plugin.releases import MANIFEST, Release, read_release
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.interruption import stop_on_signal
from saereg_plugin.sweeps.members import Member, expand, needs_token_order
from saereg_plugin.sweeps.names import release_name
from saereg_plugin.sweeps.resources import require_disk, require_memory
from saereg_plugin.sweeps.saving import save_release
from saereg_plugin.sweeps.stream import ActivationStream, open_store
from saereg_plugin.sweeps.trainer import RECORDS, SweepTrainer

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class SweepResult:
    """What came out: the release, or None if it was interrupted; and what went wrong."""

    release: Release | None
    stopped: list[str]
    """One line for each SAE that was taken out."""
    seconds: float


def run_sweep(
    sweep: SweepConfig, folder: Path, *, name: str | None = None
) -> SweepResult:
    """
    Train a sweep into ``folder``; go on with what an interrupted run left there.

    Args:
        sweep: what to train.
        folder: the release folder.
        name: the release's name; by default that of the folder.

    Raises:
        InputError: before the language model is loaded, if the sweep cannot work, does not
            fit memory or disk, the folder is not writable, or it holds another sweep.
    """
    name = release_name(sweep, folder, name)
    members = expand(sweep)
    require_memory(sweep, members)
    require_writable(folder)
    require_disk(sweep, members, folder)
    sweep = settled(sweep, folder)
    finished = _finished(sweep, folder)
    if finished is not None:
        return finished
    with _only_process(folder):
        return _train(sweep, members, folder, name=name)


def _finished(sweep: SweepConfig, folder: Path) -> SweepResult | None:
    """Return what an earlier run of the same sweep left in ``folder``, if it was finished."""
    require_same_sweep(sweep, folder)
    if not (folder / MANIFEST).is_file():
        return None
    release = read_release(folder)
    return SweepResult(release, release.provenance.get("stopped", []), 0.0)


def _train(
    sweep: SweepConfig, members: list[Member], folder: Path, *, name: str
) -> SweepResult:
    """Train in a folder that no other process has; one may have finished it just before."""
    earlier = _finished(sweep, folder)
    if earlier is not None:
        return earlier
    started = time.perf_counter()
    trainer = open_trainer(sweep, members, folder)
    is_new = claim_folder(sweep, folder)
    trainer.resume()
    try:
        with stop_on_signal() as stop:
            finished = trainer.train(stop)
    except InputError:
        if is_new and trainer.step == 0:
            # refused in its first step: the folder stays free for what is put right
            (folder / SWEEP_FILE).unlink()
            shutil.rmtree(folder / RECORDS, ignore_errors=True)
        raise
    finally:
        trainer.stream.close()
    trainer.take_out_broken()
    seconds = time.perf_counter() - started
    stopped = [str(stopped) for stopped in trainer.stopped]
    if not finished:
        return SweepResult(None, stopped, seconds)
    release = save_release(trainer, folder, name=name, seconds=seconds)
    trainer.remove_checkpoint()
    return SweepResult(release, stopped, seconds)


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Refuse a folder in which another process trains."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Another process is training in {str(folder)!r}; wait for it, or choose another folder."
        ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def open_trainer(
    sweep: SweepConfig, members: list[Member], folder: Path
) -> SweepTrainer:
    """Load the language model and the text, and make the trainer."""
    sweep = settled(sweep, folder)
    torch.manual_seed(sweep.seed)
    corpora.ensure(sweep.corpus, "train")
    model = models.load(sweep.model, dtype=sweep.llm_dtype, device=sweep.device)
    store = open_store(model, sweep, members[0].cfg.d_in)
    stream = ActivationStream(
        store, sweep, count_pairs=any(map(needs_token_order, members))
    )
    return SweepTrainer(sweep, members, stream, folder)


def settled(sweep: SweepConfig, folder: Path) -> SweepConfig:
    """Return the sweep with the data type that its folder records, or that is fast here."""
    if sweep.llm_dtype != "auto":
        return sweep
    path = folder / SWEEP_FILE
    recorded = (
        json.loads(path.read_text(encoding="utf-8")).get("llm_dtype")
        if path.is_file()
        else None
    )
    return replace(sweep, llm_dtype=recorded or models.fast_dtype(sweep.device))


def claim_folder(sweep: SweepConfig, folder: Path) -> bool:
    """Write the sweep's configuration into its folder; return False if it was there."""
    require_same_sweep(sweep, folder)
    if (folder / SWEEP_FILE).is_file():
        return False
    write_json(folder / SWEEP_FILE, sweep.to_dict())
    return True


def require_same_sweep(sweep: SweepConfig, folder: Path) -> None:
    """
    Refuse a folder that holds another sweep.

    Raises:
        InputError: naming the fields in which it differs.
    """
    path = folder / SWEEP_FILE
    if not path.is_file():
        if (folder / MANIFEST).is_file():
            raise InputError(
                f"Folder {str(folder)!r} holds a release that this command did not train "
                f"({SWEEP_FILE} is missing). Choose another output folder."
            )
        return
    wanted = json.loads(json.dumps(sweep.to_dict()))
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(
        key for key in {*wanted, *found} if wanted.get(key) != found.get(key)
    )
    if differing:
        shown = "; ".join(
            f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} here"
            for key in differing
        )
        raise InputError(
            f"Folder {str(folder)!r} holds another sweep: {shown}. Choose another output folder, "
            "or run the command it was started with to go on."
        )
