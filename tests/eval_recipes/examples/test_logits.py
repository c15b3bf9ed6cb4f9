"""The folded unembedding against the model's own last steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from eval_recipes.examples.logits import (
    extreme_logits,
    folded_unembedding,
    writes_to_residual,
)
from tests.eval_recipes.tiny_saes import tiny_sae


@pytest.mark.parametrize("norm", ["LN", "LNPre", "RMS", "RMSPre", None])
def test_the_fold_is_the_models_norm_without_its_division(norm: str | None) -> None:
    torch.manual_seed(0)
    config = HookedTransformerConfig(
        n_layers=1,
        d_model=12,
        n_ctx=4,
        d_head=4,
        n_heads=3,
        d_vocab=30,
        act_fn="gelu",
        normalization_type=norm,  # type: ignore[arg-type]
    )
    model: Any = HookedTransformer(config)
    # the last six columns are padding
    model.tokenizer = range(24)
    final = model.ln_final if norm else torch.nn.Identity()
    for weight in final.parameters():
        weight.data = torch.randn_like(weight)
    rows = torch.randn(5, 12)
    with torch.no_grad():
        zero = model.unembed(final(torch.zeros(1, 1, 12)))[0]
        logits = (model.unembed(final(rows[:, None]))[:, 0] - zero)[:, :24]
    centred = rows - rows.mean(1, keepdim=True) if "LN" in str(norm) else rows
    lengths = centred.square().mean(1, keepdim=True).sqrt() if norm else 1.0
    torch.testing.assert_close(
        rows @ folded_unembedding(model), logits * lengths, rtol=1e-3, atol=1e-4
    )


def test_extremes_come_in_order_and_no_more_than_there_are() -> None:
    unembedding = torch.tensor([[3.0, -1.0, 2.0], [0.0, 5.0, 1.0]])
    found = extreme_logits(torch.eye(2), unembedding, 10)
    assert found.top_ids.tolist() == [[0, 2, 1], [1, 2, 0]]
    assert found.bottom.tolist() == [[-1, 2, 3], [0, 1, 5]]
    assert extreme_logits(torch.eye(2), unembedding, 1).top.tolist() == [[3], [5]]


@pytest.mark.parametrize(
    ("hook", "writes"),
    [
        ("blocks.2.hook_resid_post", True),
        ("blocks.2.hook_mlp_out", True),
        ("blocks.2.attn.hook_z", False),
        ("blocks.2.mlp.hook_post", False),
        ("blocks.2.ln2.hook_normalized", False),
    ],
)
def test_logits_are_of_directions_of_the_residual_stream(
    hook: str, writes: bool
) -> None:
    sae = tiny_sae("lm", hook, torch.zeros(8), 0)
    model: Any = SimpleNamespace(cfg=SimpleNamespace(d_model=8))
    assert writes_to_residual(sae, model) is writes
    wider: Any = SimpleNamespace(cfg=SimpleNamespace(d_model=9))
    assert not writes_to_residual(sae, wider)
