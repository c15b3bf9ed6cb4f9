"""
Pytest plugin that puts our classes in the place of SAELens' training classes.

Loaded with ``-p`` before any test module is imported; see ``run_sae_lens_tests``. The
environment variable SAELENS_TESTS_CLASSES says whose classes are tested: ours or stock.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

import pytest
import sae_lens
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

from saereg_plugin.registry import ARCHITECTURES


def substitute() -> None:
    """Replace SAELens' classes and configurations in all its modules and its registry."""
    for found in pkgutil.walk_packages(sae_lens.__path__, "sae_lens."):
        if not found.name.endswith("__main__"):
            import_module(found.name)
    ours: dict[int, Any] = {}
    for name, classes in ARCHITECTURES.items():
        for cls in classes:
            ours[id(stock_of(cls))] = cls
        SAE_TRAINING_CLASS_REGISTRY[name.removeprefix("regularized_")] = classes
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "sae_lens":
            for attribute, value in list(vars(module).items()):
                if id(value) in ours:
                    setattr(module, attribute, ours[id(value)])


def stock_of(cls: type) -> type:
    """Return the SAELens class that one of ours extends."""
    name = cls.__name__.removeprefix("Regularized")
    return next(base for base in cls.__mro__ if base.__name__ == name)


class _Absent(ModuleType):
    """A module that is not installed: tests that use it are skipped, not their whole file."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def skip(*_: Any, **__: Any) -> None:
            pytest.skip(f"{self.__name__} is not installed")

        return skip


class _AbsentPackages(MetaPathFinder, Loader):
    """Finds packages that only a few of SAELens' tests use; last in line."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in ("sparsify", "dictionary_learning"):
            return None
        return spec_from_loader(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing."""


sys.meta_path.append(_AbsentPackages())
if os.environ["SAELENS_TESTS_CLASSES"] == "ours":
    substitute()
