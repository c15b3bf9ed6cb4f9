"""SAELens knows the architectures, whichever package is imported first."""

from __future__ import annotations

import ast
import inspect
import pickle
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import eval_recipes
import saereg_plugin as sr
from saereg_plugin.architectures import registration
from saereg_plugin.architectures.kinds import KINDS
from saereg_plugin.architectures.registration import _ImportHook
from saereg_plugin.registry import MECHANICS, REGULARIZERS
from tests.fresh_process import HEAVY, run_code

ASK = """
import sys
from sae_lens.registry import get_sae_training_class
from saereg_plugin.registry import MECHANICS, REGULARIZERS
from saereg_plugin.sources.models import make_model_alias_map
for name in {architectures!r}:
    assert get_sae_training_class(name)[1].architecture() == name
assert {regularizers!r} <= set(REGULARIZERS._entries)
assert {mechanics!r} <= set(MECHANICS._entries)
assert "smollm2-135m-instruct" in make_model_alias_map()
assert not [hook for hook in sys.meta_path if type(hook).__name__ == "_ImportHook"]
"""
PICKLED = pickle.dumps(
    sr.RegularizedTopKTrainingSAEConfig(
        d_in=4, d_sae=8, k=2, regularizers=[sr.WeightPenalty(coefficient=0.5)]
    )
)


def own(table: Mapping[str, type[Any]]) -> set[str]:
    """The names of this package; other tests register throwaway ones."""
    return {
        name
        for name, cls in table.items()
        if cls.__module__.startswith("saereg_plugin.")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import saereg_plugin; import sae_lens",
        "import sae_lens; import saereg_plugin",
        "import saereg_plugin; import transformer_lens",
        "import saereg_plugin as sr; sr.TopK = sr.RegularizedTopKTrainingSAE",
        "from saereg_plugin.component import Component",
        "import saereg_plugin.sweeps",
        "from saereg_plugin.errors import InputError; from sae_lens import SAE",
        "import eval_recipes.results.files; import sae_lens",
        f"import pickle; assert pickle.loads({PICKLED!r}).regularizers",
    ],
)
def test_saelens_knows_everything_once_both_are_imported(first: str) -> None:
    asked = ASK.format(
        architectures=[cfg.architecture() for _, cfg in KINDS],
        regularizers=own(REGULARIZERS),
        mechanics=own(MECHANICS),
    )
    run_code(f"{first}\n{asked}")


@pytest.mark.slow
def test_the_tables_are_full_where_saelens_was_not_imported() -> None:
    text, modules = run_code(
        "from saereg_plugin.registry import REGULARIZERS; print(*REGULARIZERS)"
    )
    assert own(REGULARIZERS) <= set(text.split())
    assert "sae_lens" in modules


def test_this_package_alone_imports_nothing_heavy() -> None:
    text, modules = run_code(
        "import saereg_plugin as sr\n"
        "from saereg_plugin import InputError, load_records\n"
        "print(*dir(sr))\n"
        "assert not hasattr(sr, 'no_such_name')"
    )
    assert set(sr.__all__) <= set(text.split())
    assert modules & HEAVY == set()


def test_a_module_is_imported_when_it_is_used() -> None:
    text, _ = run_code(
        "import saereg_plugin as sr\n"
        "print(sr.kernels.encode_top_k.__name__, sr.machine.__name__)"
    )
    assert text.split() == ["encode_top_k", "saereg_plugin.machine"]


@pytest.mark.parametrize("name", sr.__all__)
def test_a_public_name_is_that_of_its_module(name: str) -> None:
    module = f"saereg_plugin.{sr._PLACES[name]}"
    found = getattr(sr, name)
    assert found is getattr(import_module(module), name)
    assert name in dir(sr)


@pytest.mark.parametrize("package", [sr, eval_recipes])
def test_type_checkers_see_the_names_that_are_imported_on_use(
    package: ModuleType,
) -> None:
    tree = ast.parse(inspect.getsource(package))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    name = package.__name__
    assert seen == {key: f"{name}.{place}" for key, place in package._PLACES.items()}


LIBRARY = "tiny_library"
PACKAGE = "tiny_package"
PART = f"""
before = {LIBRARY!r} in __import__("sys").modules
import {LIBRARY}
from {PACKAGE} import other
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The modules that were whole at each call of a hook on a tiny library and package."""
    monkeypatch.setattr(registration, "_LIBRARIES", (LIBRARY,))
    monkeypatch.setattr(registration, "_PACKAGE", PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{LIBRARY}.py").write_text("whole = True")
    (tmp_path / PACKAGE).mkdir()
    for name, text in {"__init__": "", "part": PART, "other": ""}.items():
        (tmp_path / PACKAGE / f"{name}.py").write_text(f"{text}\nwhole = True\n")
    found: list[str] = []

    def call() -> None:
        names = (LIBRARY, f"{PACKAGE}.part", f"{PACKAGE}.other")
        loaded = [name for name in names if name in sys.modules]
        found.append(" ".join(n for n in loaded if hasattr(sys.modules[n], "whole")))

    hook = _ImportHook(call)
    sys.meta_path.insert(0, hook)
    yield found
    sys.meta_path[:] = [one for one in sys.meta_path if one is not hook]
    for name in [name for name in sys.modules if name.startswith("tiny_")]:
        del sys.modules[name]


def test_the_hook_calls_once_when_the_library_is_imported(calls: list[str]) -> None:
    import_module(f"{PACKAGE}.other")
    assert calls == []
    import_module(LIBRARY)
    assert calls == [f"{LIBRARY} {PACKAGE}.other"]
    import_module(f"{PACKAGE}.part")
    assert len(calls) == 1


def test_the_hook_waits_for_the_module_that_imports_the_library(
    calls: list[str],
) -> None:
    part = import_module(f"{PACKAGE}.part")
    assert part.before is False
    assert calls == [f"{LIBRARY} {PACKAGE}.part {PACKAGE}.other"]


def test_the_hook_waits_for_an_import_that_succeeds(
    calls: list[str], tmp_path: Path
) -> None:
    library = tmp_path / f"{LIBRARY}.py"
    library.write_text("raise OSError('no licence')")
    for _ in range(2):
        with pytest.raises(OSError, match="no licence"):
            import_module(f"{PACKAGE}.part")
    assert calls == []
    library.write_text("whole = 'at last'")
    import_module(f"{PACKAGE}.part")
    assert len(calls) == 1


def test_the_hook_calls_after_a_module_that_fails_behind_the_library(
    calls: list[str], tmp_path: Path
) -> None:
    (tmp_path / PACKAGE / "other.py").write_text("raise OSError('no sound')")
    with pytest.raises(OSError, match="no sound"):
        import_module(f"{PACKAGE}.part")
    assert calls == [LIBRARY]


def test_a_call_that_fails_is_made_again(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (hook,) = (one for one in sys.meta_path if isinstance(one, _ImportHook))
    call = hook._call
    monkeypatch.setattr(hook, "_call", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        import_module(LIBRARY)
    monkeypatch.setattr(hook, "_call", call)
    import_module(f"{PACKAGE}.other")
    import_module(LIBRARY)
    assert len(calls) == 1


def test_the_hook_leaves_loaders_and_other_modules_alone(calls: list[str]) -> None:
    part = import_module(f"{PACKAGE}.part")
    assert len(calls) == 1
    assert type(part.__loader__) is SourceFileLoader
    assert part.__loader__.get_source(part.__name__).startswith("\nbefore")
