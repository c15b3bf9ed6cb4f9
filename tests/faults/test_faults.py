"""The campaign: every fault ends as the docs promise, and nothing of the user's is lost."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.faults.fault import Fault, Place, run_command

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("*_faults.py"))
FAULTS: list[Fault] = [
    fault
    for module in MODULES
    if module != "test_faults"
    for fault in import_module(f"tests.faults.{module}").FAULTS
]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault, id=fault.name, marks=[pytest.mark.slow] if fault.slow else []
        )
        for fault in FAULTS
    ],
)
def test_fault_ends_as_promised(
    fault: Fault,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fault.arrange(place)
    command = fault.command.format(
        here=place.here,
        model=place.model,
        release=place.release,
        results=place.results,
        judge=place.judge.url,
    )
    status, output = run_command(command, monkeypatch, capfd)
    assert (status, bool(re.search(fault.words, output))) == (fault.status, True), (
        output
    )
    assert "Traceback" not in output
    fault.holds(place)
