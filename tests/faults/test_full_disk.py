"""A run on a disk that is full: earlier results stay, and the error is one line."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from eval_recipes.results.outdated import outdated_results
from tests.faults.fault import CORE, RUN, Place, run_command


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.glob("cross_seed/*"))}


def test_full_disk_leaves_earlier_results(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = _contents(place.results)
    command = RUN.replace("core,cross_seed", "cross_seed").replace(CORE, "")
    command = command.format(
        here=place.here, release=place.release, results=place.results
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # marks and notes are smaller, results are not
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        status, output = run_command(command, monkeypatch, capfd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1, output
    assert "File too large" in output and "Traceback" not in output
    assert "Make room and run it again" in output
    assert _contents(place.results) == before
    outdated = outdated_results(place.results)
    assert set(outdated) == {path for path in before if path.suffix == ".json"}
