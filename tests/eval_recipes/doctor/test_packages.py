"""Packages: extras, contradictions, and a library that another package replaced."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from eval_recipes.doctor.packages import check_libraries, check_packages, installed

LIBRARY = "nvidia/nccl/lib/libnccl.so.2"


def install(
    site: Path,
    name: str,
    version: str,
    requires: Sequence[str] = (),
    *,
    extras: Sequence[str] = (),
    library: bytes | None = None,
) -> None:
    """Write a package as pip does, with the hash of its library in RECORD."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {text}" for text in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    if library is not None:
        target = site / LIBRARY
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(library)
        digest = base64.urlsafe_b64encode(hashlib.sha256(library).digest())
        text = digest.decode().rstrip("=")
        (info / "RECORD").write_text(f"{LIBRARY},sha256={text},{len(library)}\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A light base install, complete."""
    install(
        tmp_path,
        "saereg-plugin",
        "0.2.0",
        [
            "torch>=2.6",
            'sae-bench<0.7,>=0.6; python_version < "3.99" and extra == "bench"',
            'gguf>=0.10; extra == "offline"',
            'numpy<2; python_version < "3.0" and extra == "later"',
        ],
        extras=["bench", "offline", "later", "test"],
    )
    install(tmp_path, "torch", "2.9.0", ["nvidia-nccl-cu13==2.30.7"])
    install(tmp_path, "nvidia-nccl-cu13", "2.30.7", library=b"torch's own")
    return tmp_path


def test_a_sound_base_install_has_notes_and_no_problem(site: Path) -> None:
    found = check_packages(installed([str(site)]))
    assert found.problems == []
    rows = dict(found.rows)
    assert rows["torch"] == "2.9.0"
    assert rows["sae-bench"] == "not installed"
    assert rows["extra 'offline'"] == "not installed"
    assert any('pip install "saereg-plugin[bench]"' in note for note in found.notes)


def test_an_extra_is_complete_once_its_packages_are_there(site: Path) -> None:
    install(site, "gguf", "0.19.0")
    install(site, "sae-bench", "0.6.0")
    found = check_packages(installed([str(site)]))
    rows = dict(found.rows)
    assert rows["extra 'offline'"] == rows["extra 'bench'"] == "complete"
    assert found.notes == []


def test_a_package_too_old_for_an_extra_is_named_with_its_version(site: Path) -> None:
    install(site, "gguf", "0.9.0")
    found = check_packages(installed([str(site)]))
    assert any("gguf>=0.10 (found 0.9.0)" in note for note in found.notes)


def test_a_contradicted_requirement_is_a_problem(site: Path) -> None:
    install(site, "sae-bench", "0.6.0", ["numpy<2.0,>=1.26.4"])
    install(site, "numpy", "2.3.0")
    found = check_packages(installed([str(site)]))
    assert len(found.problems) == 1
    assert found.problems[0].startswith(
        "sae-bench 0.6.0 needs numpy<2.0,>=1.26.4 (found 2.3.0). Run `pip install"
    )


def test_a_folder_on_the_path_is_no_installation(tmp_path: Path) -> None:
    found = check_packages(installed([str(tmp_path)]))
    assert "not installed" in found.problems[0]


def test_an_extra_that_this_python_cannot_have_says_so(site: Path) -> None:
    info = site / "saereg_plugin-0.2.0.dist-info" / "METADATA"
    now = f"{sys.version_info[0]}.{sys.version_info[1]}"
    info.write_text(info.read_text().replace('< "3.99"', f'!= "{now}"'))
    found = check_packages(installed([str(site)]))
    assert dict(found.rows)["extra 'bench'"] == "not for this Python"
    assert any(
        "sae-bench" in note and f"Python {now}" in note and "earlier" in note
        for note in found.notes
    )


def test_torchs_own_library_is_no_problem(site: Path) -> None:
    found = check_libraries(installed([str(site)]), has_gpu=True)
    assert (found.notes, found.problems) == ([], [])


def test_a_library_that_another_package_replaced_is_found(site: Path) -> None:
    install(site, "nvidia-nccl-cu12", "2.32.3", library=b"xgboost's")
    packages = installed([str(site)])
    problem = (
        "libnccl.so.2 is not that of nvidia-nccl-cu13==2.30.7, which torch needs: "
        "nvidia-nccl-cu12 has replaced it. Run `pip install --force-reinstall --no-deps "
        "nvidia-nccl-cu13==2.30.7`."
    )
    assert check_libraries(packages, has_gpu=True).problems == [problem]
    without = check_libraries(packages, has_gpu=False)
    assert without.problems == []
    assert "Before you use a GPU" in without.notes[0]


def test_the_remedy_is_recognised(site: Path) -> None:
    install(site, "nvidia-nccl-cu12", "2.32.3", library=b"xgboost's")
    (site / LIBRARY).write_bytes(b"torch's own")
    found = check_libraries(installed([str(site)]), has_gpu=True)
    assert (found.notes, found.problems) == ([], [])


def test_a_library_that_is_gone_is_found(site: Path) -> None:
    (site / LIBRARY).unlink()
    found = check_libraries(installed([str(site)]), has_gpu=True)
    assert found.problems[0].startswith("libnccl.so.2 of nvidia-nccl-cu13==2.30.7")
