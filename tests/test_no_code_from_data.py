"""No file can run code: neither package unpickles, evaluates or loads without limits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for package in ("saereg_plugin", "eval_recipes")
    for path in (ROOT / package).rglob("*.py")
)
_NEVER = {
    *("eval", "exec", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load"),
    *("pandas.read_pickle", "pd.read_pickle", "marshal.loads", "shelve.open"),
}


def dangerous_calls(source: str) -> Iterator[str]:
    """Yield the calls that could run code from a file, as ``line: name``."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if (
            name in _NEVER
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (name == "np.load" and given.get("allow_pickle", "False") != "False")
            or (name == "yaml.load" and "Loader" not in given and len(node.args) < 2)
        ):
            yield f"{node.lineno}: {name}"


def test_no_call_can_run_code_from_a_file() -> None:
    assert len(SOURCES) > 300
    found = {
        path.relative_to(ROOT).as_posix(): calls
        for path in SOURCES
        if (calls := list(dangerous_calls(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "torch.load(path)",
        "torch.load(path, mmap=True)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert len(list(dangerous_calls(source))) == 1
