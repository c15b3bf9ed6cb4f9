"""The sweep that a release folder records, and its checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saereg_plugin import machine
from saereg_plugin.checks import stays_inside
from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_hashes, read_json, sha256, write_json
from saereg_plugin.machine import AUTO
from saereg_plugin.owned_folder import MARK, OwnedFolder
from saereg_plugin.releases.release import KIND, MANIFEST
from saereg_plugin.sweeps.config import SweepConfig, absolute_folder

CHECKPOINT = "checkpoint"
"""Folder of the checkpoints, each in ``step-<n>``."""
INDEX = "checkpoint.json"
"""File of a checkpoint with its step, its sweep, and the SHA-256 of its other files."""
STREAM = "stream.pt"
PROGRESS = "progress.json"
"""File next to the checkpoints with the step of the newest one, or null."""
SWEEP_FILE = "sweep.json"
"""File with the fields of the sweep that the folder holds."""
_FORMAT = 1
_INDEX_TYPES: Mapping[str, type] = {
    "format": int,
    "step": int,
    "sweep": dict,
    "saes": list,
    "files": dict,
    "records": dict,
}
_ABSENT = object()
_NAME = re.compile(rf"{CHECKPOINT}/step-(?P<step>[0-9]+)/.+", re.DOTALL)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all as they were written."""

    step: int
    folder: Path
    records: Mapping[str, Mapping[str, Any]]
    """``bytes`` and ``sha256`` of the training record up to this step, by SAE id."""
    passed_over: tuple[str, ...] = ()
    """One sentence per newer checkpoint that cannot be used."""


def identity(sweep: SweepConfig, sae_ids: Iterable[str]) -> dict[str, Any]:
    """Return the fields that a checkpoint must share with the sweep that resumes."""
    return {"sweep": json.loads(json.dumps(sweep.to_dict())), "saes": list(sae_ids)}


def checkpoint_folder(step: int) -> str:
    """Return the name of a step's checkpoint in the release folder."""
    return f"{CHECKPOINT}/step-{step}"


def write_checkpoint(
    owned: OwnedFolder,
    step: int,
    *,
    of: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    write: Callable[[Path], None],
) -> None:
    """
    Write the checkpoint of a step, then remove older checkpoints.

    Args:
        owned: the release folder.
        step: completed steps.
        of: the sweep's ``identity``.
        records: as in ``Checkpoint``.
        write: writes the files into a new folder.
    """
    name = checkpoint_folder(step)
    _remove(owned, lambda other: other == step)
    owned.claim([PROGRESS])
    with owned.write_folder(name) as temporary:
        write(temporary)
        files = folder_hashes(temporary)
        write_json(
            temporary / INDEX,
            {"format": _FORMAT, "step": step, "files": files, "records": records, **of},
        )
    write_json(owned.path / PROGRESS, {"checkpoint_step": step})
    _remove(owned, lambda other: other != step)


def note_no_checkpoint(owned: OwnedFolder) -> None:
    """Note that there is no checkpoint yet, before any training record."""
    owned.claim([PROGRESS])
    write_json(owned.path / PROGRESS, {"checkpoint_step": None})


def remove_checkpoints(owned: OwnedFolder) -> None:
    """Remove all checkpoints of a sweep that is finished or abandoned."""
    _remove(owned, lambda _: True)
    owned.remove([PROGRESS])


def has_checkpoints(owned: OwnedFolder) -> bool:
    """Return whether any file of a checkpoint is listed."""
    return PROGRESS in owned.files() or bool(_steps(owned))


def newest_checkpoint(owned: OwnedFolder, of: Mapping[str, Any]) -> Checkpoint | None:
    """
    Return the newest usable checkpoint of a sweep, or None if none was ever written.

    Raises:
        InputError: if all are missing, damaged or of another sweep.
    """
    faults: list[str] = []
    written = _written_step(owned)
    for step in _steps(owned):
        folder = owned.path / checkpoint_folder(step)
        if not folder.is_dir():
            if step == written:
                faults.append(f"Checkpoint {str(folder)!r} is missing.")
            # else: not finished, or being removed
            continue
        found, fault = _open(folder, step, of)
        if found is not None:
            return replace(found, passed_over=tuple(faults))
        faults.append(f"Checkpoint {str(folder)!r} cannot be used: {fault}.")
    if written is not None and not faults:
        faults.append(f"Folder {str(owned.path / CHECKPOINT)!r} is missing.")
    if faults:
        raise InputError(
            f"{faults[0]} Put it back as it was, or remove the folder {str(owned.path)!r} to train "
            "from the start."
        )
    return None


def settled(sweep: SweepConfig, folder: Path | None) -> SweepConfig:
    """
    Return the sweep with every "auto" as its folder records it, or else as is best here.

    These are the device, the data type of the language model, and autocast.

    Raises:
        InputError: if nothing is recorded and the sweep's device does not exist.
    """
    names = ("device", "llm_dtype", "autocast")
    chosen = {name: getattr(sweep, name) for name in names}
    if AUTO not in chosen.values():
        return sweep
    recorded = {} if folder is None else _sweep_in(folder)
    chosen |= {n: recorded.get(n, AUTO) for n in names if chosen[n] == AUTO}
    return replace(sweep, **_chosen_here(**chosen))


def _chosen_here(device: str, llm_dtype: str, autocast: bool | str) -> dict[str, Any]:
    """Return the three settings without "auto"."""
    if AUTO in (device, llm_dtype, autocast):
        device = machine.resolve_device(device)
    dtype = machine.fast_dtype(device) if llm_dtype == AUTO else llm_dtype
    if autocast == AUTO:
        # products in bfloat16 are the faster ones exactly where the hardware has them
        autocast = machine.fast_dtype(device) == "bfloat16"
    return {"device": device, "llm_dtype": dtype, "autocast": autocast}


def require_recorded_device(sweep: SweepConfig, folder: Path) -> None:
    """
    Refuse to resume a sweep that was begun on a device that this machine lacks.

    Raises:
        InputError: naming the folder, the device, and what to do.
    """
    try:
        machine.require_device(sweep.device)
    except InputError as error:
        raise InputError(
            f"The sweep in {str(folder)!r} was begun on device {sweep.device!r}, which this machine "
            "lacks. Resume on a machine that has it, choose another output folder, or train anew "
            "with --fresh."
        ) from error


def claim_folder(sweep: SweepConfig, owned: OwnedFolder) -> None:
    """Write the sweep's configuration into its folder, if it is not there."""
    require_same_sweep(sweep, owned.path)
    if not (owned.path / SWEEP_FILE).is_file():
        owned.claim([SWEEP_FILE])
        write_json(owned.path / SWEEP_FILE, sweep.to_dict())


def require_same_sweep(sweep: SweepConfig, folder: Path) -> None:
    """
    Refuse a folder that holds another sweep.

    Raises:
        InputError: naming the fields in which it differs, or the file that is damaged.
    """
    if not (folder / SWEEP_FILE).is_file():
        if (folder / MANIFEST).is_file():
            raise InputError(
                f"Folder {str(folder)!r} holds a release that this command did not train "
                f"({SWEEP_FILE} is missing). Choose another output folder."
            )
        return
    wanted = json.loads(json.dumps(sweep.to_dict()))
    differing = _differences(_recorded_sweep(folder), wanted)
    if differing:
        raise InputError(
            f"Folder {str(folder)!r} holds another sweep: {differing}. Choose another output folder, "
            "or run the command it was started with to go on."
        )


def _sweep_in(folder: Path) -> Mapping[str, Any]:
    """Return the sweep that a folder or its checkpoint records; empty if neither does."""
    recorded = _recorded_sweep(folder)
    if not recorded and (folder / MARK).is_file():
        return _sweep_of_checkpoint(OwnedFolder(folder, KIND))
    return recorded


def _recorded_sweep(folder: Path) -> Mapping[str, Any]:
    """Return the sweep that a folder's ``SWEEP_FILE`` holds; empty without the file."""
    path = folder / SWEEP_FILE
    if not path.is_file():
        return {}
    remedy = (
        "Put it back; or remove it, if the folder has a checkpoint, which knows its sweep; or "
        "choose another output folder."
    )
    found = read_json(path, remedy=remedy)
    if not isinstance(found, dict):
        raise InputError(
            f"File {str(path)!r} is damaged: it holds no mapping. {remedy}"
        )
    return found


def _sweep_of_checkpoint(owned: OwnedFolder) -> Mapping[str, Any]:
    """Return the sweep of the newest readable checkpoint; empty without a checkpoint."""
    for step in _steps(owned):
        path = owned.path / checkpoint_folder(step) / INDEX
        if path.is_file():
            try:
                return _read_index(path)["sweep"]
            except InputError:
                # newest_checkpoint names it
                continue
    return {}


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return a sentence on the fields in which two sweeps differ; empty if equal."""
    there, here = _flat(found), _flat(wanted)
    # releases of 0.1.0 have paths as they were given
    if "source.kind" not in there:
        there |= {
            k: absolute_folder(str(there[k])) for k in ("model", "corpus") if k in there
        }
    return "; ".join(
        f"{key} is {there.get(key)!r} there, {here.get(key)!r} here"
        for key in sorted({*here, *there})
        if here.get(key, _ABSENT) != there.get(key, _ABSENT)
    )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested fields under dotted names; an empty mapping stays."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{key}.{name}": item for name, item in _flat(value).items()}
        else:
            found[str(key)] = value
    return found


def _steps(owned: OwnedFolder) -> list[int]:
    """Return the steps of listed checkpoints, newest first."""
    found = filter(None, map(_NAME.fullmatch, owned.files()))
    return sorted({int(match["step"]) for match in found}, reverse=True)


def _remove(owned: OwnedFolder, chosen: Callable[[int], bool]) -> None:
    """Remove the checkpoints of the chosen steps."""
    found = filter(None, map(_NAME.fullmatch, owned.files()))
    names = [match.string for match in found if chosen(int(match["step"]))]
    if names:
        owned.remove(names)


def _written_step(owned: OwnedFolder) -> int | None:
    path = owned.path / PROGRESS
    if not path.is_file():
        return None
    remedy = "Remove it; the checkpoint itself says its step."
    found = read_json(path, remedy=remedy)
    step = found.get("checkpoint_step", "") if isinstance(found, dict) else ""
    if step is not None and not isinstance(step, int):
        raise InputError(f"File {str(path)!r} is damaged. {remedy}")
    return step


def _read_index(path: Path) -> dict[str, Any]:
    """Read a checkpoint's index; refuse fields of another type."""
    found = read_json(path, remedy="")
    if not isinstance(found, dict):
        raise InputError(f"{INDEX!r} is damaged")
    for key, kind in _INDEX_TYPES.items():
        if not isinstance(found.get(key), kind):
            raise InputError(f"{INDEX!r} is damaged: {key!r} is {found.get(key)!r}")
    return found


def _open(
    folder: Path, step: int, of: Mapping[str, Any]
) -> tuple[Checkpoint | None, str]:
    """Return a checkpoint, or None and the reason why it cannot be used."""
    if not (folder / INDEX).is_file():
        return None, f"{INDEX!r} is missing"
    try:
        index = _read_index(folder / INDEX)
    except InputError as error:
        return None, str(error).strip().rstrip(".")
    fault = _other_sweep(index, step, of) or _file_fault(folder, index["files"])
    if fault:
        return None, fault
    return Checkpoint(step, folder, index["records"]), ""


def _other_sweep(index: Mapping[str, Any], step: int, of: Mapping[str, Any]) -> str:
    if index["format"] != _FORMAT:
        return f"it has format {index['format']}; this version reads {_FORMAT}"
    if index["step"] != step:
        return f"it is that of step {index['step']}"
    differing = _differences(index["sweep"], of["sweep"])
    if differing:
        return f"it is of another sweep: {differing}"
    if index["saes"] != of["saes"]:
        return f"it has the SAEs {index['saes']}; expected {of['saes']}"
    for sae_id in of["saes"]:
        part = index["records"].get(sae_id)
        if not isinstance(part, dict) or not isinstance(part.get("bytes"), int):
            return f"{INDEX!r} is damaged: its record of {sae_id!r} is {part!r}"
    return ""


def _file_fault(folder: Path, files: Mapping[str, Any]) -> str:
    """Return words on the first file that changed since it was written, or ""."""
    if STREAM not in files:
        return f"{INDEX!r} is damaged: it does not list {STREAM!r}"
    for name, expected in files.items():
        if not stays_inside(name):
            return f"{INDEX!r} is damaged: it lists {name!r}"
        if not (folder / name).is_file():
            return f"{name!r} is missing"
        found = sha256(folder / name)
        if found != expected:
            twin = next((other for other in files if files[other] == found), None)
            return f"{name!r} is " + (
                "damaged: its SHA-256 is not that of when it was written"
                if twin is None
                else f"what was written as {twin!r}"
            )
    return ""
