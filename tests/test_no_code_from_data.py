"""Neither package runs code that comes from data."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import eval_recipes
import saereg_plugin

PACKAGES = (saereg_plugin, eval_recipes)
FILES = sorted(
    path
    for package in PACKAGES
    for path in Path(str(package.__file__)).parent.rglob("*.py")
)

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
"""Modules whose readers run what they read."""

UNSAFE_CALLS = {
    "eval",
    "exec",
    "joblib.load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "torch.jit.load",
    "yaml.full_load",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
}

ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "torch.hub.load": ("trust_repo", False),
}
"""Calls that need a keyword of this value."""

NEVER_WITH = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False}
"""Keywords that no call may have with this value."""


def faults(source: str) -> list[str]:
    """Return what in a module runs data, each with its line."""
    found: list[str] = []
    tree = ast.parse(source)
    restricted = _restricts_pickle(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {fault}" for fault in _faults_of_call(node)]
            continue
        else:
            continue
        unsafe = {name.split(".")[0] for name in names} & UNSAFE_MODULES
        if restricted and isinstance(node, ast.Import):
            unsafe -= {"pickle"}
        found += [f"line {node.lineno}: import {name}" for name in sorted(unsafe)]
    return found


def _restricts_pickle(tree: ast.Module) -> bool:
    """Return whether pickle gives its errors, or an Unpickler whose find_class is replaced."""
    used = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
    ]
    others = [name for name in used if name != "UnpicklingError"]
    bases = [
        base
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(getattr(each, "name", "") == "find_class" for each in node.body)
        for base in node.bases
        if ast.unparse(base) == "pickle.Unpickler"
    ]
    return bool(used) and len(others) == len(bases)


def _faults_of_call(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    given = {
        keyword.arg: keyword.value.value
        for keyword in call.keywords
        if isinstance(keyword.value, ast.Constant)
    }
    found = [name] if name in UNSAFE_CALLS else []
    if name in ONLY_WITH:
        keyword, value = ONLY_WITH[name]
        if given.get(keyword) is not value:
            found.append(f"{name} without {keyword}={value}")
    found += [
        f"{name} with {keyword}={value}"
        for keyword, value in NEVER_WITH.items()
        if keyword in given and given[keyword] is value
    ]
    return found


def test_no_module_runs_data() -> None:
    found = {str(path): faults(path.read_text(encoding="utf-8")) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle\nclass A(pickle.Unpickler):\n    pass",
        "import pickle\nclass A(pickle.Unpickler):\n    def find_class(self): ...\npickle.load(f)",
        "from pickle import load",
        "import dill as d",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_what_runs_data_is_found(source: str) -> None:
    assert faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "sae.eval()",
        "import pickle\nclass A(pickle.Unpickler):\n    def find_class(self): ...",
        "re.compile(text)",
        "yaml.safe_load(text)",
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
    ],
)
def test_harmless_calls_are_left_alone(source: str) -> None:
    assert faults(source) == []


def test_both_packages_are_read() -> None:
    assert {path.name for path in FILES} >= {"release.py", "upstream.py", "cli.py"}
