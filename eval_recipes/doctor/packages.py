"""Installed packages: versions, extras, contradictions and overwritten libraries."""

from __future__ import annotations

import base64
import hashlib
import platform
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Nothing of saereg_plugin is imported here: much of it imports torch, and a broken torch is one of
# the things to be found.
OURS = "saereg-plugin"
SHOWN = (
    OURS,
    "sae-lens",
    "transformer-lens",
    "transformers",
    "torch",
    "numpy",
    "datasets",
    "huggingface-hub",
    "numba",
    "sae-bench",
    "sae-probes",
    "scikit-learn",
)
"""Packages whose versions are printed."""
CHECKED = (OURS, "sae-lens", "transformer-lens", "transformers", "torch", "sae-bench")
"""Packages whose own requirements are checked."""
EXTRAS = ("bench", "offline", "tensorboard", "vision", "audio", "timm")
"""Extras whose state is printed."""
EARLIER = ("3.10", "3.11", "3.12")
"""Pythons that may have what the present one has not."""
_BLOCK = 1 << 22
Installed = Mapping[str, Distribution]


@dataclass
class Findings:
    """
    What a check found.

    Attributes:
        rows: facts, as name and value.
        notes: sentences on what works only in part.
        problems: sentences on what is broken, each with a remedy.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def installed(path: list[str] | None = None) -> Installed:
    """Return the installed packages by name; ``path`` replaces ``sys.path``."""
    found: dict[str, Distribution] = {}
    for package in distributions(path=sys.path if path is None else path):
        # the first on the path is the one that is imported
        found.setdefault(canonicalize_name(package.metadata["Name"] or ""), package)
    return found


def check_packages(packages: Installed) -> Findings:
    """Return versions and extras, and what contradicts the packages' own requirements."""
    found = Findings([("python", platform.python_version())])
    found.rows += [
        (name, packages[name].version if name in packages else "not installed")
        for name in SHOWN
    ]
    if OURS not in packages:
        found.problems.append(
            f"The package {OURS} is not installed, only its folder is on the path; run "
            "`pip install .` in the clone."
        )
        return found
    for name in (name for name in CHECKED if name in packages):
        found.problems += [
            f'{name} {packages[name].version} needs {text}. Run `pip install "{wanted}"`.'
            for wanted, text in _unmet(packages, name, "")
        ]
    _add_extras(found, packages)
    return found


def _add_extras(found: Findings, packages: Installed) -> None:
    """Add the state of the extras that commands ask for."""
    offered = packages[OURS].metadata.get_all("Provides-Extra") or ()
    for extra in (extra for extra in EXTRAS if extra in offered):
        unmet = list(_unmet(packages, OURS, extra))
        excluded = _excluded(packages[OURS], extra)
        state = "complete"
        if excluded:
            state = "not for this Python"
            found.notes.append(
                f"The extra {extra!r} is not for Python {platform.python_version()}: it needs "
                f"releases of {', '.join(excluded)} that want an earlier one."
            )
        elif unmet:
            needed = len(list(_requirements(packages[OURS], extra)))
            state = "not installed" if len(unmet) == needed else "incomplete"
            found.notes.append(
                f"The extra {extra!r} lacks {', '.join(text for _, text in unmet)}. "
                f'If you want it, run `pip install "{OURS}[{extra}]"`.'
            )
        found.rows.append((f"extra {extra!r}", state))


def _unmet(packages: Installed, name: str, extra: str) -> Iterator[tuple[str, str]]:
    """Yield the unmet requirements of a package, and the same for people."""
    for requirement in _requirements(packages[name], extra):
        there = packages.get(canonicalize_name(requirement.name))
        wanted = f"{requirement.name}{requirement.specifier}"
        if there is None:
            yield wanted, f"{wanted} (not installed)"
        elif not requirement.specifier.contains(there.version, prereleases=True):
            yield wanted, f"{wanted} (found {there.version})"
        if there is not None:
            for inner in requirement.extras:
                yield from _unmet(packages, canonicalize_name(requirement.name), inner)


def _excluded(package: Distribution, extra: str) -> list[str]:
    """Return what an extra brings, but not under this Python."""
    requirements = [Requirement(text) for text in package.requires or ()]
    return [
        requirement.name
        for requirement in requirements
        if requirement.marker is not None
        and not requirement.marker.evaluate({"extra": extra})
        and any(
            requirement.marker.evaluate({"extra": extra, "python_version": version})
            and not requirement.marker.evaluate(
                {"extra": "", "python_version": version}
            )
            for version in EARLIER
        )
    ]


def _requirements(package: Distribution, extra: str) -> Iterator[Requirement]:
    """Yield what a package needs here; with an extra, only what that adds."""
    for text in package.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        without = marker is None or marker.evaluate({"extra": ""})
        with_extra = marker is None or marker.evaluate({"extra": extra})
        if with_extra and (not extra or not without):
            yield requirement


def check_libraries(packages: Installed, *, has_gpu: bool) -> Findings:
    """
    Find libraries of torch that another package has replaced.

    xgboost brings nvidia-nccl-cu12, whose libnccl.so.2 has the place of torch's own, of
    nvidia-nccl-cu13; pip says nothing. Without a GPU torch does not call it, and that is a
    note.
    """
    found = Findings()
    torch = packages.get("torch")
    needed = {
        canonicalize_name(requirement.name)
        for requirement in (_requirements(torch, "") if torch is not None else ())
    }
    owners: dict[Path, dict[str, PackagePath]] = defaultdict(dict)
    for name, package in packages.items():
        if name.startswith("nvidia-"):
            for file in package.files or ():
                if re.search(r"\.so(\.\d+)*$", file.name):
                    owners[Path(str(file.locate()))][name] = file
    for path, files in owners.items():
        for name in needed & set(files):
            others = sorted(set(files) - {name})
            text = _trouble(path, files[name], packages[name], others)
            if text is not None and has_gpu:
                found.problems.append(f"{text}. Run {_remedy(packages[name])}.")
            elif text is not None:
                found.notes.append(
                    f"{text}. Before you use a GPU, run {_remedy(packages[name])}."
                )
    return found


def _trouble(
    path: Path, file: PackagePath, package: Distribution, others: list[str]
) -> str | None:
    """Return what is wrong with a library of a package that torch needs, or None."""
    owner = f"{canonicalize_name(package.name)}=={package.version}"
    if not path.is_file():
        return f"{path.name} of {owner}, which torch needs, is missing"
    # a file of one owner that was changed is not looked for: that takes seconds a library
    if others and not _is_own(path, file):
        return (
            f"{path.name} is not that of {owner}, which torch needs: {' or '.join(others)} has "
            "replaced it"
        )
    return None


def _remedy(package: Distribution) -> str:
    return (
        "`pip install --force-reinstall --no-deps "
        f"{canonicalize_name(package.name)}=={package.version}`"
    )


def _is_own(path: Path, file: PackagePath) -> bool:
    """Return whether a file has the hash that its package recorded."""
    if file.hash is None:
        return True
    digest = hashlib.new(file.hash.mode)
    with path.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
    text = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return text == file.hash.value
