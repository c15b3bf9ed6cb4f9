"""The command ``saereg-bench cache``, and training from what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from eval_recipes.cli import app
from saereg_plugin.activations.cache import open_cache
from saereg_plugin.errors import InputError

SAE = "--d-sae 32 --k 4 --seed 0 --batch-size 128"


def bench(command: str) -> Result:
    return CliRunner().invoke(app, command.split())


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    path = tmp_path / "acts.npy"
    np.save(path, np.random.default_rng(0).normal(size=(800, 8)).astype(np.float32))
    return path


def test_arrays_are_cached_and_trained_from(tmp_path: Path, arrays: Path) -> None:
    out = tmp_path / "cache"
    result = bench(f"cache --source {arrays} --out {out}")
    assert result.exit_code == 0, result.output
    assert "720 rows of 720 inputs, 0.0 MB" in result.output
    assert f"saereg-bench train --source {out}" in result.output
    trained = bench(
        f"train --source {out} --out {tmp_path / 'sae'} --tokens 1024 {SAE}"
    )
    assert trained.exit_code == 0, trained.output


def test_split_rounding_and_limit_are_flags(tmp_path: Path, arrays: Path) -> None:
    out = tmp_path / "cache"
    flags = "--split heldout --dtype bfloat16"
    result = bench(f"cache --source {arrays} --out {out} {flags}")
    assert result.exit_code == 0, result.output
    index = open_cache(out).index
    assert (index.split, index.stored_as, index.rows) == ("heldout", "bfloat16", 80)
    refused = bench(f"train --source {out} --out {tmp_path / 'sae'} {SAE}")
    assert isinstance(refused.exception, InputError)
    assert "holds the split 'heldout'; expected 'train'" in str(refused.exception)


def test_file_of_a_sweep_names_the_source(tmp_path: Path, small_model: Path) -> None:
    config = tmp_path / "sweep.yaml"
    fields = {
        "model": str(small_model),
        "hook_name": "blocks.0.hook_resid_post",
        "sae": {"architecture": "regularized_topk", "d_sae": 32, "k": 4},
        "seeds": [0],
        "tokens": 512,
        "batch_size": 128,
        "context_size": 64,
        "prompts_per_pass": 4,
        "buffer_tokens": 256,
        "llm_dtype": "float32",
    }
    config.write_text(yaml.safe_dump(fields))
    out = tmp_path / "cache"
    result = bench(f"cache --config {config} --out {out}")
    assert result.exit_code == 0, result.output
    # 512 tokens for training and 256 that stay in the buffer
    assert 768 <= open_cache(out).index.rows < 768 + 256
    more = bench(f"cache --config {config} --out {out} --tokens 1024")
    assert more.exit_code == 0, more.output
    assert open_cache(out).index.rows >= 1024 + 256
    trained = bench(f"train --config {config} --source {out} --out {tmp_path / 'sae'}")
    assert trained.exit_code == 0, trained.output
    refused = bench(f"cache --config {config} --out {out} --split heldout")
    assert "take the held-out part of a text themselves" in str(refused.exception)
