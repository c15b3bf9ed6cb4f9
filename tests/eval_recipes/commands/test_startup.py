"""Commands that read results import neither torch nor SAELens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval_recipes.report.latents.latent_files import (
    write_examples,
    write_explanations,
    write_stability,
    write_texts,
)
from tests.eval_recipes.report.result_files import write_all
from tests.eval_recipes.steering.test_show import write as write_steered
from tests.eval_recipes.width_control.test_width_control import evaluate
from tests.fresh_process import HEAVY, run_code, run_command

POINT = {
    **{"judge": "embedding", "amount": 5.0, "strength": 5.0, "ratio": 0.1},
    **{"success": 0.5, "success_ci_low": 0.25, "success_ci_high": 0.75},
    **{"success_fluent": 0.25, "random": 0.1, "loss": 0.3},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of regularised SAEs, with the tables next to them."""
    folder = write_all(tmp_path_factory.mktemp("results"))
    write_stability(folder, "l2", 0)
    write_examples(folder, "l2", 0)
    write_explanations(folder, "l2", 0, [8, 9])
    path = write_texts(folder, "l2", 0, [8, 16])
    record = json.loads(path.read_text())
    record["eval_result_details"] = [POINT]
    path.write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of groups and of their controls."""
    return evaluate(tmp_path_factory.mktemp("compared"), 2)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("table {results}", "l2 0.25"),
        ("table {results} --csv", "l2-seed0,l2,0,topk,l2 0.25"),
        ("plot {results} --out {out}", "pareto.png"),
        ("plot {results} --steering --out {out}", "steering.png"),
        ("report {results} --out {out}.html", ".html"),
        ("show latent --results {results} --latent 8", "Latent 8"),
        ("list weight_penalty", "saereg_plugin/regularizers/weight_penalty.py"),
        ("list autointerp", "dead_latent_threshold"),
    ],
)
def test_a_command_on_results_imports_nothing_heavy(
    results: Path, tmp_path: Path, command: str, said: str
) -> None:
    given = command.format(results=results, out=tmp_path / "out").split()
    text, modules = run_command(given)
    assert said in text
    assert modules & HEAVY == set()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("table {results} --widths", "Width-matched control"),
        ("plot {results} --cross-seed --out {out}", "shared_fraction.png"),
    ],
)
def test_a_comparison_of_widths_imports_nothing_heavy(
    compared: Path, tmp_path: Path, command: str, said: str
) -> None:
    given = command.format(results=compared, out=tmp_path / "out").split()
    text, modules = run_command(given)
    assert said in text
    assert modules & HEAVY == set()


def test_showing_a_steered_latent_imports_nothing_heavy(tmp_path: Path) -> None:
    write_steered(tmp_path)
    given = f"show steering --results {tmp_path} --latent 7".split()
    text, modules = run_command(given)
    assert "Latent 7: the sea" in text
    assert modules & HEAVY == set()


def test_bad_input_of_such_a_command_is_refused_without_them(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from eval_recipes.cli import main\n"
        "sys.argv = ['saereg-bench', 'table', 'no-such-results']\n"
        "try: main()\n"
        "except SystemExit as ended: print('status', ended.code)\n"
    )
    text, modules = run_code(code, cwd=tmp_path)
    assert "status 2" in text
    assert modules & HEAVY == set()
