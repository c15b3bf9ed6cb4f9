"""Fine-tuning of a release into a new release folder, resumable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saereg_plugin import machine
from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.activations.language_model import Contexts
from saereg_plugin.errors import InputError
from saereg_plugin.finetuning.contexts import ContextSource
from saereg_plugin.finetuning.settings import FineTune, Prepared, prepare
from saereg_plugin.finetuning.trainer import FineTuneTrainer
from saereg_plugin.owned_folder import open_owned, require_owned
from saereg_plugin.process import StopFlag
from saereg_plugin.releases.opening import open_release, register_release
from saereg_plugin.releases.release import KIND
from saereg_plugin.sources import corpora, models
from saereg_plugin.sweeps.checkpoint import settled
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.members import Member, check_members
from saereg_plugin.sweeps.plan import Plan, disk_of, required_memory
from saereg_plugin.sweeps.run import SweepResult, train_members
from saereg_plugin.sweeps.saving import release_name
from saereg_plugin.sweeps.source import with_source
from saereg_plugin.sweeps.trainer import LOCK

_log = logging.getLogger(__name__)


def finetune(
    release: str | Path,
    *,
    out: str | Path,
    settings: FineTune | None = None,
    name: str | None = None,
    fresh: bool = False,
    group_by: str | None = None,
    progress: Callable[[str], object] = _log.warning,
    **fields: Any,
) -> SweepResult:
    """
    Fine-tune every SAE of a release on KL divergence and MSE, into a new release.

    The SAEs share each clean pass of the language model, whose weights stay as they are.
    Regularisers, mechanics (but for ``resampling``), unit norm and seeds are those of the
    release. The same call resumes an interrupted run. Example::

        import saereg_plugin as sr

        after = sr.finetune("my-release", out="my-release-kl", tokens=50_000)
        control = sr.finetune("my-release", out="my-release-mse", tokens=50_000, loss="mse")

    Args:
        release: as for ``open_release``; SAEs of hooks of one language model.
        out: the release folder: new, empty, or of an earlier run.
        settings: what to do; or leave it out and give the fields of ``FineTune``.
        name: of the new release; by default that of the folder.
        fresh: begin anew; the files that an earlier run wrote into ``out`` are removed.
        group_by: see ``open_release``.
        progress: gets one line on what is trained and where it resumes.
        fields: fields of ``FineTune`` by name.

    Returns:
        the release, open for ``load``, and the SAEs that were taken out.

    Raises:
        InputError: if the release, a field or the folder cannot be used; see ``run_sweep``. It is
            raised before the language model is loaded.
    """
    settings = _settings(settings, fields)
    folder = Path(out)
    require_owned(folder, KIND)
    prepared, facts, left_open = _prepared(
        release, settings, folder, group_by, fresh=fresh
    )
    result = train_members(
        prepared.sweep,
        prepared.members,
        facts,
        folder,
        partial(_open_trainer, prepared, settings, facts, fresh=fresh),
        name=release_name(prepared.sweep, folder, name),
        left_open=left_open,
        fresh=fresh,
        progress=progress,
    )
    if result.release is not None:
        register_release(folder)
    return result


def plan_finetune(
    release: str | Path,
    scratch: Path,
    *,
    settings: FineTune | None = None,
    group_by: str | None = None,
    **fields: Any,
) -> Plan:
    """
    Measure three steps of a fine-tune and extrapolate to the whole; keeps nothing.

    Args:
        release, settings, group_by, fields: as in ``finetune``.
        scratch: an empty temporary folder.

    Raises:
        InputError: as ``finetune``.
    """
    settings = _settings(settings, fields)
    prepared, facts, _ = _prepared(release, settings, scratch, group_by)
    sweep, members = prepared.sweep, prepared.members
    least = required_memory(sweep, members, facts)
    trainer = _open_trainer(prepared, settings, facts, sweep, folder=scratch)
    # the first step warms up, and reads the text
    trainer.train(StopFlag(), steps=1)
    started, done = time.perf_counter(), trainer.step
    trainer.train(StopFlag(), steps=3)
    seconds = (time.perf_counter() - started) / max(trainer.step - done, 1)
    return Plan(
        saes=len(members),
        parameters=sum(
            parameter.numel()
            for each in trainer.trainers.values()
            for parameter in each.sae.parameters()
        ),
        least_memory_gib=least.total / 2**30,
        memory_gib=machine.peak_memory_gib(),
        has_memory_gib=machine.memory_bytes(machine.require_device(sweep.device))
        / 2**30,
        disk_gib=disk_of(sweep, members) / 2**30,
        seconds=seconds * sweep.steps,
        steps=sweep.steps,
    )


def _settings(settings: FineTune | None, fields: dict[str, Any]) -> FineTune:
    if settings is not None and fields:
        raise InputError(
            f"finetune got settings and {', '.join(map(repr, fields))}; expected one of both. Put the "
            "fields into the FineTune."
        )
    return FineTune(**fields) if settings is None else settings


def _prepared(
    name: str | Path,
    settings: FineTune,
    folder: Path,
    group_by: str | None,
    *,
    fresh: bool = False,
) -> tuple[Prepared, SourceFacts, bool]:
    """Return the fine-tune, the facts of its source, and whether the device was left open."""
    release = open_release(name, group_by=group_by)
    if release.folder is not None:
        _require_other(release.folder, folder)
    prepared = prepare(
        release, str(name), settings, machine.resolve_device(settings.device)
    )
    sweep = settled(prepared.sweep, None if fresh else folder)
    sweep, facts = with_source(sweep)
    members = [_on(member, sweep) for member in prepared.members]
    check_members(sweep, members, facts)
    left_open = settings.device == machine.AUTO
    return replace(prepared, sweep=sweep, members=members), facts, left_open


def _on(member: Member, sweep: SweepConfig) -> Member:
    """Return a member on the sweep's device."""
    cfg = replace(member.cfg, device=sweep.device)
    return replace(member, cfg=cfg)


def _require_other(source: Path, folder: Path) -> None:
    """Refuse to write a release over the one that is read."""
    if source.resolve() == folder.resolve():
        raise InputError(
            f"Folder {str(folder)!r} is the release itself; expected another folder for the fine-tuned "
            "SAEs. Choose another --out."
        )


def _open_trainer(
    prepared: Prepared,
    settings: FineTune,
    facts: SourceFacts,
    sweep: SweepConfig,
    *,
    folder: Path,
    fresh: bool = False,
) -> FineTuneTrainer:
    """Load the language model, and make the trainer."""
    torch.manual_seed(sweep.seed)
    corpora.ensure(sweep.corpus, "train")
    model = models.load(sweep.model, dtype=sweep.llm_dtype, device=sweep.device)
    source = ContextSource(
        model,
        objective=settings.objective,
        order=prepared.order,
        model_name=sweep.model,
        corpus=sweep.corpus,
        points=facts.points,
        contexts=Contexts(
            context_size=sweep.context_size,
            per_pass=sweep.prompts_per_pass,
            prepend_bos=sweep.prepend_bos,
            exclude_special_tokens=sweep.exclude_special_tokens,
            disable_concat_sequences=sweep.disable_concat_sequences,
        ),
        device=sweep.device,
        dtype=sweep.llm_dtype,
        batch_size=sweep.batch_size,
        total_tokens=sweep.tokens,
    )
    owned = open_owned(folder, KIND)
    if fresh:
        owned.remove(owned.files() - {LOCK})
    return FineTuneTrainer(
        sweep=sweep,
        members=prepared.members,
        source=source,
        owned=owned,
        objective=settings.objective,
        weight_decay=settings.weight_decay,
        saved=prepared.saved,
        trained_steps=prepared.trained_steps,
    )
