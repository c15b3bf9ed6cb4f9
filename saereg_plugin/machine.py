"""
This machine: devices, memory, disk, packages and command.

Torch is imported where it is asked: commands that only read results do not need it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from saereg_plugin.errors import InputError, printable

if TYPE_CHECKING:
    import torch

_GROUPS = Path("/sys/fs/cgroup")


def fast_dtype(device: str) -> str:
    """Return "bfloat16" where the device multiplies it in hardware, else "float32"."""
    import torch

    if torch.device(device).type == "cuda":
        return (
            "bfloat16"
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else "float32"
        )
    # since torch 2.10
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    has = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return "bfloat16" if has and torch.device(device).type == "cpu" else "float32"


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """
    Return a floating torch dtype by name.

    Raises:
        InputError: if no dtype has that name, or models cannot compute in it.
    """
    import torch

    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise InputError(
            f"Unknown dtype {dtype!r}; expected the name of a torch dtype, such as "
            "'float32' or 'bfloat16'."
        )
    if not found.is_floating_point or found.itemsize < 2:
        raise InputError(
            f"Models cannot compute in dtype {dtype!r}; expected 'float32', 'bfloat16', "
            "'float16' or 'float64'."
        )
    return found


AUTO: Final = "auto"
"""Device, data type or setting that is chosen for the machine."""


def resolve_device(text: str) -> str:
    """
    Return the name of a device of this machine; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        InputError: naming the devices of this machine, if it has no such device.

    >>> resolve_device("cpu")
    'cpu'
    """
    if text == AUTO:
        return next(kind for kind in ("cuda", "mps", "cpu") if _device_count(kind))
    require_device(text)
    return text


def require_device(device: str) -> torch.device:
    """
    Return a torch device by name, if this machine has it.

    Raises:
        InputError: naming the devices of this machine, if no device has that name, its
            driver is missing, or its index is too large.
    """
    import torch

    # torch takes a number for the index of a GPU
    if not isinstance(device, str):
        raise InputError(f"Device {device!r} is no text; expected 'cpu' or 'cuda:1'.")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(
            f"Unknown device {device!r}; expected {_device_names()}."
        ) from error
    count = _device_count(found.type)
    if count == 0:
        raise InputError(
            f"Device {device!r} is not available: torch {torch.__version__} finds no "
            f"{found.type} device on this machine. Use {_device_names()}, or check the driver."
        )
    if (found.index or 0) >= count:
        raise InputError(
            f"Device {device!r} does not exist: this machine has {count} {found.type} "
            f"device{'s' if count > 1 else ''}, counted from 0. Use {_device_names()}."
        )
    return found


def _device_names() -> str:
    """Return the names that this machine's devices can be given by, as words."""
    names = [AUTO]
    for kind in ("cuda", "mps", "cpu"):
        count = _device_count(kind)
        names += (
            [f"{kind}:{i}" for i in range(count)] if kind == "cuda" else [kind] * count
        )
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}"


def _device_count(kind: str) -> int:
    """Return the number of devices of a type that torch can compute on."""
    import torch

    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    # "meta" tensors have no values
    module = None if kind == "meta" else getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return int(module.device_count())


def memory_bytes(device: torch.device) -> int:
    """
    Return the most memory that this process can have on a device, in bytes.

    On the CPU that is memory and swap, or a smaller limit of a control group or of
    ``ulimit -v``.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[1]
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    return min([memory, *_limits()])


def require_memory(
    what: str,
    needed: int,
    device: torch.device,
    *,
    parts: str = "",
    remedy: str = "Choose a smaller size.",
) -> None:
    """
    Refuse a size that cannot fit into a device's memory, however much of it is free.

    Args:
        what: begins the message, such as "d_sae=1000".
        needed: least bytes.
        device: the device.
        parts: the bytes of each part, in words.
        remedy: a sentence that ends the message.

    Raises:
        InputError: with the needed and the present memory, in GiB.
    """
    found = memory_bytes(device)
    if needed > found:
        told = f": {parts}" if parts else ""
        raise InputError(
            f"{what} needs at least {gib(needed)} of memory{told}; {device} has {gib(found)}. "
            f"{remedy}"
        )


def gib(count: int) -> str:
    """Return a number of bytes as text in GiB."""
    return f"{count / 2**30:,.1f} GiB"


def free_disk_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _limits() -> Iterator[int]:
    """Yield the limits on this process's memory that the system reports."""
    if sys.platform == "win32":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft
    for path in _group_files():
        text = path.read_text(encoding="ascii").strip()
        # "max" is no limit
        if text.isdigit():
            yield int(text)


def _group_files() -> list[Path]:
    """Return the files with the limits of this process's control groups, versions 1 and 2."""
    own = Path("/proc/self/cgroup")
    if not own.is_file():
        return []
    found = {_GROUPS / "memory.max", _GROUPS / "memory" / "memory.limit_in_bytes"}
    for line in own.read_text(encoding="utf-8", errors="replace").splitlines():
        _, kinds, path = line.split(":", 2)
        for part in (Path(path), *Path(path).parents):
            inside = str(part).lstrip("/")
            if not kinds:
                found.add(_GROUPS / inside / "memory.max")
            elif "memory" in kinds.split(","):
                found.add(_GROUPS / "memory" / inside / "memory.limit_in_bytes")
    return sorted(path for path in found if path.is_file())


_PACKAGES = (
    "saereg-plugin",
    "sae-lens",
    "sae-bench",
    "transformer-lens",
    "transformers",
    "torch",
)


EXTRAS = {
    "bench": (
        "sae_bench",
        "sae_probes",
        "openai",
        "sklearn",
        "statsmodels",
        "scipy",
        "matplotlib",
        "plotly",
        "jinja2",
        "markupsafe",
        "tabulate",
        "torchvision",
        "httpcore",
        "tenacity",
    ),
    "offline": ("gguf", "zstandard"),
    "tensorboard": ("tensorboard",),
    "vision": ("PIL", "torchvision", "fontTools"),
    "audio": ("soundfile", "jiwer", "scipy"),
    "timm": ("timm", "PIL", "torchvision"),
}
"""Modules that each extra of this package brings, by name of the extra."""

_LAST_BENCH = (3, 12)
"""Last Python for which sae-bench can be installed."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide results."""
    found = {name: _installed_version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **{name: number for name, number in found.items() if number is not None},
    }


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing_modules(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def require_extra(extra: str, user: str) -> None:
    """
    Refuse what needs an extra of this package that is not installed.

    Args:
        extra: name of the extra.
        user: begins the message, such as "`saereg-bench run`".

    Raises:
        InputError: with the missing modules and the command that installs them.
    """
    missing = missing_modules(extra)
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"{user} needs the packages of the extra {extra!r} ({', '.join(missing)} {verb} not "
            f"installed); {_how_to_install(extra, missing)}"
        )


def _how_to_install(extra: str, missing: list[str]) -> str:
    """Return the end of a sentence that says how an extra is installed."""
    command = f'`pip install "saereg-plugin[{extra}]"`'
    if "sae_bench" in missing and sys.version_info[:2] > _LAST_BENCH:
        return (
            "sae-bench needs numpy < 2 and so Python 3.10 to 3.12, and this is Python "
            f"{platform.python_version()}. Run {command} with an earlier Python."
        )
    return f"run {command}."


def hardware() -> dict[str, Any]:
    """Return the facts of this machine that decide speed."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerator": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else None,
    }


def command() -> str:
    """Return the command line of this process; bytes that are not UTF-8 are escaped."""
    return printable(" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def resident_bytes() -> int:
    """Return the memory that this process holds now, in bytes."""
    return psutil.Process().memory_info().rss


def return_freed_memory() -> None:
    """
    Give freed memory back to the system, where the C library can (glibc).

    In a loop whose large tensors come and go while small ones stay, glibc keeps the holes
    between them: a pass with 40 SAEs held 10 GB of which 2 were in use.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_memory_gib() -> float:
    """Return the peak resident memory of this process, in GiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except FileNotFoundError:
        # not Linux
        pass
    return platform.processor() or platform.machine()
