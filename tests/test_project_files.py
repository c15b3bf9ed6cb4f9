"""Files for people and services around the code: they parse, and name what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
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
WITH_ADDRESS = (".ci/address", "README.md", "pyproject.toml", "CITATION.cff")
URL = "https://github.com/some-lab/some.name"
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


@pytest.fixture
def addressed(tmp_path: Path) -> Path:
    """A copy of the files that name the repository's address, written once."""
    for name in WITH_ADDRESS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    _write_address(tmp_path, URL)
    return tmp_path


def _write_address(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / ".ci" / "address"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _contents(project: Path) -> dict[str, str]:
    return {name: (project / name).read_text(encoding="utf-8") for name in WITH_ADDRESS}


def test_the_address_is_written_everywhere_and_what_it_leads_to_is_there(
    addressed: Path,
) -> None:
    files = _contents(addressed)
    for name in ("Homepage", "Documentation", "Repository", "Issues", "Changelog"):
        assert f'\n{name} = "{URL}' in files["pyproject.toml"]
    assert yaml.safe_load(files["CITATION.cff"])["repository-code"] == URL
    links = re.findall(r"\]\(([^)\s]+)\)", files["README.md"])
    assert all(link.startswith("https://") for link in links)
    paths = [
        link.removeprefix(f"{URL}/").split("/", 2)[2].partition("#")[0]
        for link in [
            *links,
            *re.findall(rf'"({URL}/blob/.*)"', files["pyproject.toml"]),
        ]
        if link.startswith((f"{URL}/blob/main/", f"{URL}/raw/main/"))
    ]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert f"]({URL}/raw/main/docs/images/" in files["README.md"]
    # what a block shows is no link
    code = r"^```.*?^```$"
    assert re.findall(code, files["README.md"], re.M | re.S) == re.findall(
        code, (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )


def test_badges_say_what_the_project_says(addressed: Path) -> None:
    readme, project = (addressed / name for name in ("README.md", "pyproject.toml"))
    badges = readme.read_text(encoding="utf-8").partition("<!-- end of badges -->")[0]
    versions = re.findall(r":: (3\.\d+)\"", project.read_text(encoding="utf-8"))
    assert f"Python {versions[0]} to {versions[-1]}]" in badges
    assert "licence-MIT" in badges
    assert (ROOT / ".github/workflows/ci.yml").is_file()
    assert f"{URL}/actions/workflows/ci.yml/badge.svg" in badges


def test_the_address_is_written_once_and_can_change(addressed: Path) -> None:
    once = _contents(addressed)
    assert _write_address(addressed, f"{URL}.git").returncode == 0
    assert _contents(addressed) == once
    moved = "https://github.com/other/place"
    assert _write_address(addressed, moved, "trunk").returncode == 0
    assert _contents(addressed) == {
        name: text.replace(URL, moved).replace("/main/", "/trunk/")
        if name != ".ci/address"
        else text
        for name, text in once.items()
    }


@pytest.mark.parametrize("given", [[], ["http://github.com/a/b"], ["github.com/a/b"]])
def test_an_address_of_another_kind_is_refused_and_nothing_is_written(
    addressed: Path, given: list[str]
) -> None:
    before = _contents(addressed)
    ended = _write_address(addressed, *given)
    assert ended.returncode == 1
    assert "https://github.com/OWNER/NAME" in ended.stderr
    assert _contents(addressed) == before


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
