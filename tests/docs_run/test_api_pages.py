"""The API pages: what they name is what the packages export."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from types import ModuleType

import pytest

from tests.docs_run.blocks import ROOT

_PACKAGES = [
    "saereg_plugin",
    "saereg_plugin.sweeps",
    "saereg_plugin.presets",
    "saereg_plugin.metrics",
    "eval_recipes",
]


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """The hook of MkDocs that writes the pages."""
    spec = importlib.util.spec_from_file_location(
        "api_names", ROOT / ".ci" / "api_names.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_public(package: ModuleType, name: str) -> bool:
    value = getattr(package, name)
    module = getattr(value, "__module__", getattr(value, "__name__", ""))
    of_ours = str(module).partition(".")[0] in ("saereg_plugin", "eval_recipes")
    return not name.startswith("_") and of_ours and not _is_folder(package, name)


def _is_folder(package: ModuleType, name: str) -> bool:
    """Return whether it is a submodule of the package, which Python adds by itself."""
    return f"{package.__name__}.{name}" in sys.modules


@pytest.mark.parametrize("package", _PACKAGES)
def test_the_page_has_every_exported_name(hook: ModuleType, package: str) -> None:
    found = import_module(package)
    public = getattr(found, "__all__", None) or [
        name for name in vars(found) if _is_public(found, name)
    ]
    told = hook.exported(package)
    assert set(public) <= set(told)
    for name, module in told.items():
        assert getattr(import_module(module), name) is getattr(found, name)


@pytest.mark.parametrize("package", _PACKAGES)
def test_each_package_has_a_page(hook: ModuleType, package: str) -> None:
    page = f"docs/api/{package.removeprefix('saereg_plugin.')}.md"
    text = (ROOT / page).read_text(encoding="utf-8")
    entries = hook.on_page_markdown(text)
    assert f"<!-- names of {package} -->" in text
    assert all(f"::: {m}.{n}" in entries for n, m in hook.exported(package).items())
