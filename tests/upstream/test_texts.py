"""Texts for upstream: each reproducer shows its fault, and each change mends it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.docs_run.blocks import blocks

_FOLDER = "docs/upstream"


def _block(page: str, language: str) -> str:
    (found,) = (
        block.text
        for block in blocks()
        if (block.page, block.language) == (f"{_FOLDER}/{page}.md", language)
    )
    return found


def _changed(diff: str) -> tuple[str, str]:
    """Return a file's name in its package and its text after a change; each part fits once."""
    head, *lines = diff.splitlines()[1:]
    name = head.removeprefix("+++ b/")
    text = _installed(name).read_text(encoding="utf-8")
    for hunk in "\n".join(lines).split("\n@@\n"):
        marked = [(line[:1], line[1:]) for line in hunk.split("\n")]
        old = "\n".join(line for mark, line in marked if mark != "+")
        new = "\n".join(line for mark, line in marked if mark != "-")
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return name, text


def _installed(name: str) -> Path:
    package, _, rest = name.partition("/")
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / rest


def _run(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "reproducer"}
    exec(compile(_block(page, "python"), page, "exec"), names)
    return names


def _same_at_every_scale(names: dict[str, Any]) -> bool:
    found = torch.tensor(names["values"])
    return bool(torch.allclose(found, names["right"], atol=1e-4))


def _not_raised(names: dict[str, Any]) -> bool:
    return names["error"] is None


def _kl_is_zero(names: dict[str, Any]) -> bool:
    return bool((names["kl"] == 0).all())


def _padding_changes_nothing(names: dict[str, Any]) -> bool:
    return bool((names["short"] - names["long"]).abs().max() < 1e-6)


@pytest.mark.parametrize(
    ("page", "right"),
    [
        ("sae-bench-explained-variance", _same_at_every_scale),
        ("sae-bench-beartype", _not_raised),
        ("sae-lens-buffer", _not_raised),
        ("sae-bench-padding", _padding_changes_nothing),
        ("sae-bench-kl", _kl_is_zero),
    ],
)
def test_a_reproducer_shows_the_fault_and_the_change_mends_it(
    page: str,
    right: Callable[[dict[str, Any]], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not right(_run(page))
    name, text = _changed(_block(page, "diff"))
    module_name = name.removesuffix(".py").replace("/", ".")
    module = types.ModuleType(module_name)
    module.__file__ = str(_installed(name))
    monkeypatch.setitem(sys.modules, module_name, module)
    exec(compile(text, name, "exec"), module.__dict__)
    assert right(_run(page))


def test_numpy_2_needs_one_change_of_sae_bench(tmp_path: Path) -> None:
    done = _run("sae-bench-numpy")["done"]
    assert re.findall(r"(\S+):\d+:\d+: NPY201", done.stdout) == [
        str(_installed("sae_bench/evals/unlearning/utils/metrics.py"))
    ]
    name, text = _changed(_block("sae-bench-numpy", "diff"))
    changed = tmp_path / Path(name).name
    changed.write_text(text, encoding="utf-8")
    check = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "NPY201"]
    subprocess.run([*check, str(changed)], check=True)


@pytest.mark.slow
def test_sae_lens_loads_the_architectures_of_an_entry_point(tmp_path: Path) -> None:
    assert (
        "KeyError: 'regularized_topk'" in _run("sae-lens-entry-points")["done"].stderr
    )
    name, text = _changed(_block("sae-lens-entry-points", "diff"))
    shutil.copytree(_installed("sae_lens/__init__.py").parent, tmp_path / "sae_lens")
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "another_package.py").write_text(
        "from sae_lens import StandardTrainingSAE as A, StandardTrainingSAEConfig as B\n"
        "from sae_lens import register_sae_training_class\n"
        "register_sae_training_class('another', A, B)\n"
    )
    folder = tmp_path / "another_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: another-package\nVersion: 1.0\n"
    )
    (folder / "entry_points.txt").write_text(
        "[sae_lens.architectures]\nanother = another_package\n"
    )
    code = (
        "import sae_lens; from sae_lens.registry import get_sae_training_class as get; "
        "print(sae_lens.__file__, get('another')[0].__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        str(tmp_path / "sae_lens" / "__init__.py"),
        "StandardTrainingSAE",
    ]
