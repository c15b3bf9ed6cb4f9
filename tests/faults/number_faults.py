"""Faults of training that end in figures without a meaning."""

from __future__ import annotations

import torch
import yaml
from sae_lens import SAE

from tests.faults.fault import Fault, Place

_L1 = {
    "name": "weight_penalty",
    "norm": "l1",
    "mode": "decoupled",
    # lr * coefficient is above every entry: the step takes whole decoder rows
    "coefficient": 300,
}
_GROUPS = {
    "free": {"sparse_step": "never"},
    "sparse": {"sparse_step": "always"},
    "unit": {"decoder_constraint": "unit_norm"},
}


def _vanishing_rows(place: Place) -> None:
    sweep = {
        "model": str(place.model),
        "hook_name": "blocks.0.hook_resid_post",
        "tokens": 4096,
        "batch_size": 512,
        "sae": {"architecture": "regularized_topk", "d_sae": 64, "k": 4},
        "groups": {
            name: {**fields, "regularizers": [_L1]} for name, fields in _GROUPS.items()
        },
        "seeds": [0],
    }
    (place.here / "sweep.yaml").write_text(yaml.safe_dump(sweep))


def _all_compute(place: Place) -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    for name in _GROUPS:
        sae = SAE.load_from_disk(place.here / "out" / "saes" / f"{name}-seed0")
        assert sae(x).isfinite().all(), name
        norms = sae.W_dec.norm(dim=-1)
        assert (norms - 1).abs().max() < 1e-4, name


FAULTS = [
    Fault(
        name="a penalty takes whole decoder rows",
        row="N1",
        arrange=_vanishing_rows,
        command="train --config {here}/sweep.yaml --out {here}/out",
        status=0,
        words=r"3 SAEs",
        holds=_all_compute,
    ),
]
