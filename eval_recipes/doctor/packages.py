"""Installed packages: versions, extras, contradictions and overwritten libraries."""

from __future__ import annotations

import base64
import hashlib
import platform
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Nothing of saereg_plugin is imported here: it imports torch, and a broken torch is one of
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
    for package in distributions(**({} if path is None else {"path": path})):
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
    ours = packages[OURS]
    for extra in sorted(set(ours.metadata.get_all("Provides-Extra") or ())):
        unmet = [text for _, text in _unmet(packages, OURS, extra)]
        state = "complete" if not unmet else "incomplete"
        found.rows.append((f"extra {extra!r}", state))
        if unmet:
            found.notes.append(
                f"The extra {extra!r} is incomplete: {'; '.join(unmet)}. "
                f'If you want it, run `pip install "{OURS}[{extra}]"`.'
            )


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
            if others and not _is_own(path, files[name]):
                _add_replaced(found, packages, path, name, others, has_gpu=has_gpu)
    return found


def _add_replaced(
    found: Findings,
    packages: Installed,
    path: Path,
    name: str,
    others: list[str],
    *,
    has_gpu: bool,
) -> None:
    package = f"{name}=={packages[name].version}"
    sentence = (
        f"{path.name} is not that of {package}, which torch needs: {' or '.join(others)} has "
        "replaced it. "
    )
    remedy = f"run `pip install --force-reinstall --no-deps {package}`."
    if has_gpu:
        found.problems.append(f"{sentence}R{remedy[1:]}")
    else:
        found.notes.append(f"{sentence}Before you use a GPU, {remedy}")


def _is_own(path: Path, file: PackagePath) -> bool:
    """Return whether a file has the hash that its package recorded."""
    if file.hash is None:
        return True
    if not path.is_file():
        return False
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, file.hash.mode).digest()
    text = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return text == file.hash.value
