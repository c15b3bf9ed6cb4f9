"""Passes of the language model with a reconstruction in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from saereg_plugin.errors import InputError
from saereg_plugin.finetuning.frozen_model import FrozenModel, start_of
from saereg_plugin.finetuning.losses import Objective, kl_divergence
from saereg_plugin.sources import models

HOOKS = (
    "hook_embed",
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_post",
    "blocks.3.hook_resid_post",
    "blocks.1.hook_mlp_out",
    "blocks.2.attn.hook_z",
    "ln_final.hook_normalized",
)


@pytest.fixture(scope="module")
def calm(calm_model_folder: Any) -> HookedTransformer:
    """A model of four layers of its own, whose gradients these tests switch off."""
    return models.load(str(calm_model_folder)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens(contexts: Tensor) -> Tensor:
    return contexts[:2, :24]


def all_tokens(tokens: Tensor) -> Tensor:
    return torch.ones_like(tokens, dtype=torch.bool)


@pytest.mark.parametrize("hook", HOOKS)
@torch.no_grad()
def test_an_identity_in_place_of_the_hook_has_a_kl_of_exactly_0(
    calm: HookedTransformer, tokens: Tensor, hook: str
) -> None:
    frozen = FrozenModel(calm, [hook], Objective())
    clean = frozen.clean(tokens, all_tokens(tokens))
    rows = clean.rows(hook)
    changed = clean.with_rows(hook, rows, torch.arange(len(rows)))
    logits, later = frozen.patched(clean, hook, changed)
    assert clean.log_p is not None
    assert later == []
    assert float(kl_divergence(clean.log_p, logits[clean.keep])) == 0


@pytest.mark.parametrize("hook", HOOKS)
@torch.no_grad()
def test_logits_are_those_of_a_whole_pass_with_a_hook(
    calm: HookedTransformer, tokens: Tensor, hook: str
) -> None:
    frozen = FrozenModel(calm, [hook], Objective())
    keep = all_tokens(tokens)
    keep[:, 0] = False
    clean = frozen.clean(tokens, keep)
    noise = torch.randn(clean.rows(hook).shape, generator=torch.manual_seed(0))
    rows = clean.rows(hook) + 0.1 * noise
    changed = clean.with_rows(hook, rows, torch.arange(len(rows)))

    def put(value: Tensor, hook: Any) -> Tensor:
        del hook
        flat = value.flatten(2).clone()
        flat[keep] = rows
        return flat.view_as(value)

    whole = calm.run_with_hooks(tokens, fwd_hooks=[(hook, put)])
    torch.testing.assert_close(frozen.patched(clean, hook, changed)[0], whole)
    # the token that is left out stays as it was
    assert torch.equal(changed[:, 0], clean.activations[hook][:, 0])


@torch.no_grad()
def test_clean_pass_is_the_models_own(calm: HookedTransformer, tokens: Tensor) -> None:
    hook = "blocks.1.hook_resid_post"
    logits, cache = calm.run_with_cache(tokens, names_filter=hook)
    clean = FrozenModel(calm, [hook], Objective()).clean(tokens, all_tokens(tokens))
    assert torch.equal(clean.activations[hook], cache[hook])
    assert clean.log_p is not None
    torch.testing.assert_close(clean.log_p, logits.log_softmax(-1).flatten(0, 1))


@torch.no_grad()
def test_mse_alone_does_not_run_the_model_to_its_end(
    calm: HookedTransformer, tokens: Tensor
) -> None:
    hook = "blocks.0.hook_resid_post"
    seen: list[str] = []
    frozen = FrozenModel(calm, [hook], Objective("mse"))

    def note(value: Tensor, hook: Any) -> None:
        del value
        seen.append(hook.name)

    watched = [(f"blocks.{n}.hook_resid_post", note) for n in range(4)]
    with calm.hooks(fwd_hooks=watched):
        clean = frozen.clean(tokens, all_tokens(tokens))
    assert seen == [hook]
    assert clean.log_p is None


def test_later_layers_are_compared_after_the_one_that_changes(
    calm: HookedTransformer, tokens: Tensor
) -> None:
    hook = "blocks.0.hook_resid_post"
    frozen = FrozenModel(calm, [hook], Objective("e2e"))
    clean = frozen.clean(tokens, all_tokens(tokens))
    # block 1 reads the reconstruction itself
    assert len(clean.later[hook]) == 2
    changed = (clean.activations[hook] + 0.1).requires_grad_()
    logits, later = frozen.patched(clean, hook, changed)
    assert [t.shape for t in later] == [t.shape for t in clean.later[hook]]
    sum(t.float().sum() for t in (logits, *later)).backward()
    assert changed.grad is not None
    frozen.require_unchanged()


def test_last_layer_has_nothing_later_to_compare(calm: HookedTransformer) -> None:
    with pytest.raises(InputError, match="no layer after hook 'blocks.3"):
        FrozenModel(calm, ["blocks.3.hook_resid_post"], Objective("e2e"))


def test_changed_weights_are_noticed(calm_model_folder: Any) -> None:
    model = models.load(str(calm_model_folder))
    frozen = FrozenModel(model, ["blocks.0.hook_resid_post"], Objective())
    frozen.require_unchanged()
    with torch.no_grad():
        model.blocks[3].mlp.W_out[0, 0] += 1e-3
    with pytest.raises(RuntimeError, match="changed"):
        frozen.require_unchanged()


def test_start_of_a_hook() -> None:
    assert start_of("blocks.2.hook_resid_pre").layer == 2
    assert start_of("blocks.2.hook_resid_post").layer == 3
    inner = start_of("blocks.2.hook_mlp_out")
    assert (inner.layer, inner.enters) == (2, False)
    assert inner.hook == "blocks.2.hook_resid_pre"
    assert start_of("hook_embed").layer is None
