"""Files for people and services around the code: they parse, and name what is there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FORMS = sorted(
    path
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
    if path.name != "config.yml"
)
VERSION = re.search(
    r'^version = "([^"]+)"',
    (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)


def _yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_has_what_the_format_asks_for_and_the_current_version() -> None:
    cited = _yaml("CITATION.cff")
    assert cited["cff-version"] == "1.2.0"
    assert cited["message"]
    assert cited["title"]
    assert all("name" in author for author in cited["authors"])
    assert VERSION is not None
    assert cited["version"] == VERSION[1]


def test_the_changelog_begins_with_the_current_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## (\S+)", text, flags=re.MULTILINE)
    assert first is not None
    assert VERSION is not None
    assert VERSION[1].partition(".dev")[0] == first[1]


def test_the_workflow_runs_the_script_of_ci() -> None:
    steps = _yaml(".github/workflows/ci.yml")["jobs"]["checks"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == [".ci/run"]
    assert os.access(ROOT / commands[0], os.X_OK)


def test_the_hooks_are_the_checks_that_contributors_are_told() -> None:
    (repo,) = _yaml(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    told = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    for hook in repo["hooks"]:
        assert hook["name"] in told
        assert hook["entry"].startswith(hook["name"])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_an_issue_form_has_what_it_needs(form: Path) -> None:
    fields = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert fields["name"]
    assert fields["description"]
    ids = [field["id"] for field in fields["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in fields["body"])
    assert {field["type"] for field in fields["body"]} <= {"textarea", "input"}
    assert any(field.get("validations", {}).get("required") for field in fields["body"])


def test_there_are_issue_forms() -> None:
    assert len(FORMS) == 3
