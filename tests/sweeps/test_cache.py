"""Sweeps from a cache: the same SAEs, bit for bit, as from the model itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saereg_plugin.activations.arrays import ArraySource
from saereg_plugin.activations.cache import open_cache, write_cache
from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256
from saereg_plugin.releases.records import load_records
from saereg_plugin.sweeps import SweepConfig, cache_sweep, run_sweep, train
from tests.sweeps.test_disk import sweep_on

TEMPORAL = {"regularizers": [{"name": "temporal_difference", "coefficient": 1e-3}]}


def weights_of(folder: Path) -> dict[str, str]:
    return {
        path.parent.name: sha256(path)
        for path in sorted(folder.glob("saes/*/sae_weights.safetensors"))
    }


def cached(sweep: SweepConfig, folder: Path) -> SweepConfig:
    return replace(sweep, source={"kind": "cache", "path": str(folder)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_language_model_and_its_cache_train_the_same_saes(
    tmp_path: Path, small_model: Path, dtype: str
) -> None:
    sweep = replace(sweep_on(small_model), llm_dtype=dtype)
    written = cache_sweep(sweep, tmp_path / "cache")
    assert written.is_finished
    run_sweep(sweep, tmp_path / "model")
    run_sweep(cached(sweep, tmp_path / "cache"), tmp_path / "cached")
    assert weights_of(tmp_path / "model") == weights_of(tmp_path / "cached")
    one, other = (
        json.loads((tmp_path / name / "saes/sae-seed0/cfg.json").read_text())
        for name in ("model", "cached")
    )
    assert one["metadata"]["model_name"] == str(small_model)
    assert one == other
    stored = open_cache(tmp_path / "cache").feed().take()
    assert stored.activations[sweep_hook(sweep)].dtype == getattr(torch, dtype)


def sweep_hook(sweep: SweepConfig) -> str:
    assert isinstance(sweep.hook_name, str)
    return sweep.hook_name


def test_pairs_of_tokens_are_counted_from_the_cache_too(
    tmp_path: Path, small_model: Path
) -> None:
    sweep = replace(
        sweep_on(small_model),
        groups={"slow": TEMPORAL},
        mixing_fraction=0,
        exclude_special_tokens=False,
    )
    cache_sweep(sweep, tmp_path / "cache")
    run_sweep(sweep, tmp_path / "model")
    run_sweep(cached(sweep, tmp_path / "cache"), tmp_path / "cached")
    assert weights_of(tmp_path / "model") == weights_of(tmp_path / "cached")
    one, other = (load_records(tmp_path / name) for name in ("model", "cached"))
    shown = [column for column in one.columns if "pairs" in column]
    assert shown
    assert one[shown].equals(other[shown])


def test_more_rows_than_cached_are_refused_before_training(
    tmp_path: Path, small_model: Path
) -> None:
    sweep = sweep_on(small_model)
    cache_sweep(sweep, tmp_path / "cache")
    longer = cached(replace(sweep, tokens=2 * sweep.tokens), tmp_path / "cache")
    with pytest.raises(InputError, match=r"The cache has .* rows .*; expected 1,408"):
        run_sweep(longer, tmp_path / "out")
    with pytest.raises(InputError, match=r"The cache has .* rows .*; expected 1,408"):
        train(
            open_cache(tmp_path / "cache"),
            out=tmp_path / "out",
            sae=longer.sae,
            seeds=[0],
            tokens=longer.tokens,
            batch_size=128,
            buffer_tokens=256,
        )
    assert not (tmp_path / "out").exists()
    # the same cache goes on where it ended
    cache_sweep(replace(sweep, tokens=2 * sweep.tokens), tmp_path / "cache")
    assert run_sweep(longer, tmp_path / "out").release is not None


def test_arrays_train_like_their_cache_and_like_their_files(tmp_path: Path) -> None:
    array = torch.randn(600, 16)
    torch.save(array, tmp_path / "a.pt")
    fields: dict[str, Any] = {
        "sae": {"architecture": "regularized_topk", "d_sae": 64, "k": 4},
        "seeds": [0],
        "tokens": 1280,
        "batch_size": 128,
        "buffer_tokens": 256,
        "device": "cpu",
        "log_every": 100,
    }
    source = ArraySource(tmp_path / "a.pt")
    write_cache(source, tmp_path / "cache")
    train(source, out=tmp_path / "arrays", **fields)
    train(open_cache(tmp_path / "cache"), out=tmp_path / "given", **fields)
    named = {"kind": "arrays", "path": str(tmp_path / "a.pt")}
    train(out=tmp_path / "named", source=named, **fields)
    kept = {"kind": "cache", "path": str(tmp_path / "cache")}
    train(out=tmp_path / "cached", source=kept, **fields)
    found = [weights_of(tmp_path / n) for n in ("arrays", "given", "named", "cached")]
    assert found[0] and all(weights == found[0] for weights in found)
