"""
Registration with SAELens and TransformerLens, once either is imported.

Commands that only read results need neither of the two, nor torch, and together they take many
seconds to import. So ``saereg_plugin`` imports its public names on use. But SAELens must know
the architectures before anybody asks for one, also where no name of this package is used:

    import saereg_plugin
    from sae_lens import SAE

To ask SAELens is to have imported it. So an import hook waits for the end of its import, and
then registers all that this package has. If SAELens was imported first, this happens at once.

Registration imports most modules of this package. Where one of them is itself what imports
SAELens, it is half-imported at that moment, and registration waits until its import has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from typing_extensions import override

_LIBRARIES = ("sae_lens", "transformer_lens")
_PACKAGE = __name__.partition(".")[0]


def register_in_time(modules: Sequence[str]) -> None:
    """
    Register all that this package has, now or when SAELens or TransformerLens is imported.

    Args:
        modules: modules that register regularisers and mechanics when they are imported.
    """
    if _is_imported():
        _register(modules)
    else:
        sys.meta_path.insert(0, _ImportHook(lambda: _register(modules)))


def _is_imported() -> bool:
    return any(name in sys.modules for name in _LIBRARIES)


def _register(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(module)
    from saereg_plugin.architectures.kinds import KINDS
    from saereg_plugin.mechanics.optimizer_steps import register_hooks
    from saereg_plugin.registry import register_architecture
    from saereg_plugin.sources import models

    for classes in KINDS:
        register_architecture(*classes)
    register_hooks()
    models.register_names()


class _ImportHook(MetaPathFinder):
    """
    A function that is called once, when a library is imported and nothing is half-imported.

    It finds no modules itself. It follows the imports of the libraries and of this package.
    """

    def __init__(self, call: Callable[[], None]):
        self._call = call
        self._under_way: set[str] = set()

    @override
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in _LIBRARIES and not fullname.startswith(f"{_PACKAGE}."):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Loader) -> None:
        """Note when the loader begins and ends to execute its module."""
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self._under_way.add(module.__name__)
            try:
                execute(module)
            finally:
                # also after an error, since the library may have been imported before it
                self._under_way.discard(module.__name__)
                self._call_if_due()

        # the loader stays what it is, for those who read its source or resources
        setattr(loader, "exec_module", exec_module)

    def _call_if_due(self) -> None:
        if self not in sys.meta_path or self._under_way or not _is_imported():
            return
        sys.meta_path.remove(self)
        try:
            self._call()
        except BaseException:
            # the next import tries again
            sys.meta_path.insert(0, self)
            raise
