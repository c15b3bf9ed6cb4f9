"""Distillations of a few steps on a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saereg_plugin.distillation.settings import Distill
from tests.sweeps.tiny import tiny_sweep

EMBEDDED = "smollm2-135m-instruct"
SAE: dict[str, Any] = {
    "architecture": "regularized_matryoshka_batchtopk",
    "d_sae": 64,
    "k": 8,
    "matryoshka_widths": [16, 32, 64],
    "decoder_constraint": "unit_norm",
    "normalize_activations": "expected_average_only_in",
}


def tiny_distill(model: str | Path = EMBEDDED, **changes: Any) -> Distill:
    """Two cycles of twelve steps, two seeds, ranked on 300 tokens."""
    sweep = tiny_sweep(model=str(model), sae=SAE, groups={"sae": {}})
    fields: dict[str, Any] = {
        "cycles": 2,
        "share": 0.6,
        "quantile": 0.9,
        "score_tokens": 300,
    }
    return Distill(sweep, **{**fields, **changes})
