"""The notebooks of the documentation, executed at small sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"
SIZES = {
    "FIRST_HOUR_TOKENS": "8192",
    "FIRST_HOUR_LATENTS": "256",
    "FIRST_HOUR_HELDOUT_TOKENS": "2048",
}


def outputs(notebook: Any, cell_id: str) -> dict[str, str]:
    """Everything that a cell shows, by MIME type."""
    (cell,) = (cell for cell in notebook.cells if cell["id"] == cell_id)
    shown: dict[str, str] = {}
    for output in cell["outputs"]:
        shown |= dict(output.get("data", {}))
    return shown


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory, calm_model_folder: Path) -> Any:
    """The notebook after all its cells ran on the cut model; a cell that raises fails."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOKS / "first-hour.ipynb", as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **SIZES,
            "FIRST_HOUR_MODEL": str(calm_model_folder),
        }.items():
            patch.setenv(name, value)
        client = NotebookClient(
            notebook, timeout=800, resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    return notebook


def test_first_hour_runs_and_shows_tables_and_plots(
    executed: Any, calm_model_folder: Path
) -> None:
    trained = outputs(executed, "train")["text/html"]
    assert f"Release first-hour: 4 SAEs of {calm_model_folder}" in trained
    loaded = outputs(executed, "load")["text/plain"]
    assert "('TopKSAE', 576, 256, {'plain'" in " ".join(loaded.split())
    evaluated = outputs(executed, "evaluate")["text/html"]
    assert "expl. var." in evaluated
    assert "l2-seed1" in evaluated
    assert "plain-seed0" in outputs(executed, "table")["text/html"]
    for cell_id in ("plot", "shared"):
        assert len(outputs(executed, cell_id)["image/png"]) > 10_000


def test_notebooks_are_kept_without_outputs() -> None:
    found = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert [path.name for path in found] == ["first-hour.ipynb"]
    for path in found:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert all(not cell.get("outputs") for cell in notebook.cells)
