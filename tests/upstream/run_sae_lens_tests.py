"""
SAELens' own tests of its training classes, with our classes in their place.

    python tests/upstream/run_sae_lens_tests.py FOLDER

FOLDER is the folder ``tests`` of a checkout of SAELens, at the tag next to the installed
version. It is copied to a temporary folder and run twice, with SAELens' classes and with
ours. What fails with both needs something that is missing here, such as the network.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

FILES = (
    *(
        f"saes/test_{name}_sae.py"
        for name in (
            "standard",
            "topk",
            "batchtopk",
            "matryoshka_batchtopk",
            "jumprelu",
            "gated",
        )
    ),
    "saes/test_sae.py",
    "training/test_sae_trainer.py",
    "training/test_multi_sae_trainer.py",
    *(
        f"refactor_compatibility/test_{name}_sae_equivalence.py"
        for name in ("standard", "topk", "jumprelu", "gated")
    ),
)
"""The tests of training classes; those that a version does not have are left out."""

BY_DESIGN = (
    (
        r"test_TopKSAE_fold_W_dec_norm_(works|errors)_when_rescale",
        "k above d_sae is refused as bad input",
    ),
    (
        r"test_SAE_load_from_disk_(uses_meta|does_not_peak|memory_efficient)"
        r"|test_SAE_from_pretrained_uses_meta|test_from_pretrained_folds_norm",
        "a training checkpoint names our architecture and is no inference SAE; "
        "save_inference_model writes SAELens' own",
    ),
)
"""Regular expressions of test ids, and why ours differ there on purpose."""

PASSED = "passed"


@dataclass(frozen=True)
class Comparison:
    """Outcomes of both runs by test id: passed, failed or skipped, and the message."""

    stock: dict[str, tuple[str, str]]
    ours: dict[str, tuple[str, str]]

    def passed(self) -> list[str]:
        """Return the tests that pass with ours."""
        return [name for name, (how, _) in self.ours.items() if how == PASSED]

    def cannot_run(self) -> list[str]:
        """Return the tests that do not pass with SAELens' own classes either."""
        others = [name for name, (how, _) in self.ours.items() if how != PASSED]
        broken = set(self._broken())
        return [name for name in others if name not in broken]

    def by_design(self) -> dict[str, str]:
        """Return the tests in which ours differ on purpose, with the reason."""
        reasons = {name: _reason(name) for name in self._broken()}
        return {name: reason for name, reason in reasons.items() if reason}

    def unexplained(self) -> list[str]:
        """Return the tests that only SAELens' own classes pass, without a reason."""
        return [name for name in self._broken() if not _reason(name)]

    def report(self) -> str:
        """Return the figures and the lists as text."""
        lines = [
            f"{len(self.ours)} tests: {len(self.passed())} pass with the regularised classes, "
            f"{len(self.by_design())} differ by design, {len(self.unexplained())} fail, "
            f"{len(self.cannot_run())} cannot run here.",
            *(f"by design  {name}: {why}" for name, why in self.by_design().items()),
            *(
                f"fails      {name}: {self._ours(name)[1]}"
                for name in self.unexplained()
            ),
            *(f"cannot run {name}: {self.ours[name][1]}" for name in self.cannot_run()),
        ]
        return "\n".join(lines)

    def _broken(self) -> list[str]:
        passed = [name for name, (how, _) in self.stock.items() if how == PASSED]
        return [name for name in passed if self._ours(name)[0] != PASSED]

    def _ours(self, name: str) -> tuple[str, str]:
        # a file that does not import has no tests
        return self.ours.get(name, ("missing", "it was not collected"))


def compare(folder: Path) -> Comparison:
    """Run the tests in ``folder`` with SAELens' classes and with ours."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        shutil.copytree(folder, here / "tests")
        shutil.copy(HERE / "substitute.py", here / "saereg_substitute.py")
        (here / "pytest.ini").write_text("[pytest]\n")
        return Comparison(_run(here, "stock"), _run(here, "ours"))


def _run(here: Path, classes: str) -> dict[str, tuple[str, str]]:
    files = [f"tests/{file}" for file in FILES if (here / "tests" / file).is_file()]
    report = here / f"{classes}.xml"
    path = os.pathsep.join([str(here), str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "saereg_substitute"),
            *("-p", "no:cacheprovider", f"--junitxml={report}", *files),
        ],
        cwd=here,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "SAELENS_TESTS_CLASSES": classes,
            "HF_HUB_OFFLINE": "1",
        },
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if not report.is_file():
        raise RuntimeError(
            f"pytest wrote no report of the tests with {classes} classes."
        )
    return _outcomes(report)


def _outcomes(report: Path) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        outcome = (PASSED, "")
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                message = " ".join((child.get("message") or "").split())
                outcome = (child.tag, message[:160])
        found[name] = outcome
    return found


def _reason(name: str) -> str:
    return next((why for pattern, why in BY_DESIGN if re.search(pattern, name)), "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on the tests; return 1 if one fails without a reason, or none passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder 'tests' of SAELens")
    comparison = compare(parser.parse_args(arguments).folder)
    sys.stdout.write(comparison.report() + "\n")
    return int(bool(comparison.unexplained()) or not comparison.passed())


if __name__ == "__main__":
    sys.exit(main())
