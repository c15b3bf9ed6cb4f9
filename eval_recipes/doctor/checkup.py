"""A checkup of this machine: devices, hub, caches and packages."""

from __future__ import annotations

import os
import shutil
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from eval_recipes.doctor.packages import (
    Findings,
    check_libraries,
    check_packages,
    installed,
)

HUB_SECONDS = 5.0
_DRIVER = Path("/proc/driver/nvidia/version")


def examine() -> dict[str, Findings]:
    """Return what each check found, by heading; nothing is changed."""
    packages = installed()
    found = {"Packages": check_packages(packages)}
    broken = check_imports()
    if broken.problems:
        found["Imports"] = broken
        found["Libraries"] = check_libraries(packages, has_gpu=has_driver())
        return found
    found["Devices"] = check_devices()
    found["Libraries"] = check_libraries(packages, has_gpu=has_driver())
    found["Hub"] = check_hub()
    found["Caches"] = check_caches()
    return found


def check_imports() -> Findings:
    """Import torch and this package; an error is a problem."""
    found = Findings()
    for name in ("torch", "saereg_plugin.sweeps"):
        try:
            import_module(name)
        # what libraries that do not fit each other raise: OSError of a shared object, the others
        # of versions that know other names or another binary interface
        except (
            ImportError,
            OSError,
            AttributeError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            found.problems.append(
                f"{name.split('.')[0]} cannot be imported ({type(error).__name__}: {error}). See "
                "the other lines, or install into a new virtual environment."
            )
            return found
    return found


def has_driver() -> bool:
    """Return whether this machine has an NVIDIA driver, whatever torch says."""
    return _DRIVER.is_file() or shutil.which("nvidia-smi") is not None


def check_devices() -> Findings:
    """Return the devices that torch computes on, with their memory."""
    import torch

    from saereg_plugin.machine import fast_dtype, gib, memory_bytes

    found = Findings()
    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    for name in names:
        device = torch.device(name)
        # a device that does not compute may not answer questions either
        try:
            torch.ones(2, device=device).sum().item()
            cuda = device.type == "cuda"
            kind = (
                torch.cuda.get_device_name(device)
                if cuda
                else f"{os.cpu_count()} cores"
            )
            memory = gib(memory_bytes(device))
        except RuntimeError as error:
            first = str(error).strip().split("\n")[0]
            found.problems.append(
                f"{name} does not compute: {first}. Check driver and torch."
            )
            continue
        found.rows.append(
            (name, f"{kind}, {memory}, fast data type {fast_dtype(name)}")
        )
    if has_driver() and not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        found.problems.append(
            f"There is an NVIDIA driver, but torch {torch.__version__} (built for {built}) finds "
            "no GPU. Install the torch that fits the driver: https://pytorch.org/get-started."
        )
    return found


def check_hub() -> Findings:
    """Ask the hub once, for at most five seconds."""
    from huggingface_hub import constants, get_token

    found = Findings([("address", constants.ENDPOINT)])
    found.rows.append(("token", "set" if get_token() else "none"))
    if constants.HF_HUB_OFFLINE:
        found.rows.append(("reachable", "not asked: HF_HUB_OFFLINE is set"))
        return found
    try:
        request = Request(constants.ENDPOINT, method="HEAD")
        with urlopen(request, timeout=HUB_SECONDS) as answer:
            state = f"yes (status {answer.status})"
    except HTTPError as error:
        state = f"yes (status {error.code})"
    # no answer, a broken one, or no address
    except (OSError, HTTPException, ValueError) as error:
        state = "no"
        found.notes.append(
            f"The hub cannot be reached ({type(error).__name__}: {error}). Local folders, the "
            "embedded model and embedded text work without it."
        )
    found.rows.append(("reachable", state))
    return found


def check_caches() -> Findings:
    """Return the cache folders with their sizes, and whether they can be written to."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    from saereg_plugin.machine import free_disk_bytes, gib
    from saereg_plugin.sources.assets import cache_dir

    found = Findings()
    ours = cache_dir()
    inside = sorted(ours.iterdir()) if ours.is_dir() else []
    for name, folder in (
        ("ours", ours),
        *((f"ours: {path.name}", path) for path in inside if path.is_dir()),
        ("hub", Path(HF_HUB_CACHE)),
        ("datasets", Path(config.HF_DATASETS_CACHE)),
    ):
        size = gib(folder_bytes(folder))
        found.rows.append((name, f"{size} in {folder}"))
    found.rows.append(("free disk", gib(free_disk_bytes(ours))))
    if not _is_writable(ours):
        found.problems.append(
            f"Cache folder {str(ours)!r} cannot be written to. Set the environment variable "
            "SAEREG_CACHE to a folder that can."
        )
    return found


def folder_bytes(folder: Path) -> int:
    """Return the bytes of the files below a folder, links not followed; 0 without it."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            # a cache may lose files meanwhile
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
    return total


def _is_writable(folder: Path) -> bool:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
