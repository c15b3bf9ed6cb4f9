"""The meta-structure figure by sorting every activation at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def variance_explained(meta: Any, decoder: torch.Tensor) -> float:
    """1 - error / variance about the mean; the k n largest activations are kept."""
    weights = {
        name: value.detach().double().numpy()
        for name, value in meta.state_dict().items()
    }
    rows = decoder.double().numpy()
    norms = np.sqrt((weights["W_dec"] ** 2).sum(1))
    acts = (rows - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    acts = np.maximum(acts * norms, 0)
    keep = int(meta.cfg.k * len(rows))
    flat = acts.ravel()
    dropped = np.argsort(-flat, kind="stable")[keep:]
    flat[dropped] = 0
    output = (acts / norms) @ weights["W_dec"] + weights["b_dec"]
    residual = ((rows - output) ** 2).sum()
    return 1 - residual / ((rows - rows.mean(0)) ** 2).sum()
