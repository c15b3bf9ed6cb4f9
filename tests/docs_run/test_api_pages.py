"""The API pages: what they name is what the packages export."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from types import ModuleType

import pytest

from saereg_plugin import registry
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


@pytest.mark.parametrize("package", _PACKAGES)
def test_an_entry_is_what_the_package_exports(hook: ModuleType, package: str) -> None:
    found = import_module(package)
    told = hook.exported(package)
    for name, module in told.items():
        assert getattr(import_module(module), name) is getattr(found, name)
    assert set(getattr(found, "__all__", ())) <= set(told)


def test_the_page_has_every_class_that_is_registered(hook: ModuleType) -> None:
    told = set(hook.exported("saereg_plugin"))
    ours = [
        *registry.REGULARIZERS.values(),
        *registry.MECHANICS.values(),
        *(cls for classes in registry.ARCHITECTURES.values() for cls in classes),
    ]
    names = {c.__name__ for c in ours if c.__module__.startswith("saereg_plugin.")}
    assert names
    assert names <= told


@pytest.mark.parametrize("package", _PACKAGES)
def test_each_package_has_a_page(hook: ModuleType, package: str) -> None:
    page = f"docs/api/{package.removeprefix('saereg_plugin.')}.md"
    text = (ROOT / page).read_text(encoding="utf-8")
    entries = hook.on_page_markdown(text)
    assert f"<!-- names of {package} -->" in text
    assert all(f"::: {m}.{n}" in entries for n, m in hook.exported(package).items())
