"""An evaluation of one's own: a folder and a line of the registry."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.registry import RECIPES
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

FILES = {
    "__init__.py": "",
    "options.py": """
from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

@dataclass
class NormOptions(BaseEvalConfig):
    factor: float = Field(default=1.0, gt=0, title="Factor")
""",
    "output.py": '''
from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput, BaseMetricCategories, BaseMetrics, BaseResultDetail,
)
from eval_recipes.results.metrics import metric, metric_class
from own_norm.options import NormOptions

@metric_class
class NormMetrics(BaseMetrics):
    """Metrics of the norms."""
    mean_norm = metric("Mean Norm", "Mean norm of the decoder rows", display=True)

@dataclass
class NormCategories(BaseMetricCategories):
    """Categories."""
    norm: NormMetrics = Field(title="Norm", description="Norms", json_schema_extra={})

@dataclass
class NormOutput(BaseEvalOutput[NormOptions, NormCategories, BaseResultDetail]):
    """Result."""
    eval_config: NormOptions
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: NormCategories
    eval_type_id: str = "own_norm"
''',
    "main.py": '''
from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.statistics.interval import Interval
from own_norm.options import NormOptions
from own_norm.output import NormCategories, NormMetrics, NormOutput

class NormEvaluation(Evaluation[NormOptions]):
    """Norms of the decoder rows."""
    name = "own_norm"
    summary = "how long decoder rows are"
    Options = NormOptions
    Output = NormOutput
    reads_model = False

    def evaluate(self, context, subject, options):
        sae = subject.load(context.device)
        if not bool(sae.W_dec.isfinite().all()):
            raise ValueError("W_dec holds NaN")
        norms = sae.W_dec.detach().norm(dim=1) * options.factor
        mean = Interval(float(norms.mean()), None, None, len(norms))
        return NormOutput(
            **base_fields(subject, sae),
            eval_config=options,
            eval_result_metrics=NormCategories(norm=NormMetrics(**flat({"mean_norm": mean}))),
            eval_result_details=[],
            eval_result_unstructured=unstructured(subject),
        )
''',
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the evaluation, entered in the registry."""
    folder = tmp_path / "packages" / "own_norm"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setitem(RECIPES, "own_norm", "own_norm.main:NormEvaluation")
    yield folder  # pyright: ignore[reportReturnType]
    for name in [name for name in sys.modules if name.startswith("own_norm")]:
        del sys.modules[name]


def test_the_commands_know_an_evaluation_by_its_line_in_the_registry(
    own: Path, tmp_path: Path, model_name: str
) -> None:
    broken = tiny_sae(model_name, HOOK_NAME, torch.zeros(576), 0)
    broken.W_dec.data[0, 0] = float("nan")
    good = tiny_sae(model_name, HOOK_NAME, torch.zeros(576), 1)
    save_release(tmp_path / "release", {"broken": broken, "good": good})
    invoke = CliRunner().invoke
    results = tmp_path / "results"
    command = [
        *("run", "--sae-release", str(tmp_path / "release"), "--out", str(results)),
        *("--evals", "own_norm", "--artifacts", str(tmp_path / "artifacts")),
    ]

    assert "how long decoder rows are" in invoke(app, ["list"]).output
    assert invoke(app, ["schemas", "--check"]).exit_code == 1
    assert invoke(app, ["schemas", "--write"]).exit_code == 0
    schema = json.loads((own / "eval_output_schema_own_norm.json").read_text())

    first = invoke(app, command)
    # one failing SAE does not stop the others, and is told
    assert first.exit_code == 1 and "W_dec holds NaN" in first.output
    (path,) = (results / "own_norm").glob("*.json")
    record = json.loads(path.read_text())
    jsonschema.validate(record, schema)
    assert record["eval_result_metrics"]["norm"]["mean_norm"] == pytest.approx(
        float(good.W_dec.norm(dim=1).mean())
    )

    before = path.read_bytes()
    named = ["--resume", "--sae-id", "good", "--option", "own_norm.factor=1.0"]
    assert invoke(app, [*command, *named]).exit_code == 0
    assert path.read_bytes() == before
    other = ["--resume", "--sae-id", "good", "--option", "own_norm.factor=2"]
    assert invoke(app, [*command, *other]).exit_code == 0
    assert path.read_bytes() != before

    refused = invoke(app, [*command, "--option", "own_norm.factor=0"])
    assert "own_norm.factor is 0; expected a number above 0" in str(refused.exception)
    table = ["table", str(results), "--csv", "--metric", "norm/mean_norm"]
    assert "mean_norm" in invoke(app, table).output
