"""Clean and zero-ablated passes are made once, and only they."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from eval_recipes.saebench.core.main import SharedPasses
from tests.conftest import HOOK_NAME

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"return_type": "both", "loss_per_token": True}


def standard_zero_ablate_hook(activations: torch.Tensor, hook: Any) -> torch.Tensor:
    """As upstream names it."""
    del hook
    return torch.zeros_like(activations)


def halve(activations: torch.Tensor, hook: Any) -> torch.Tensor:
    """As an SAE's replacement: another result for every SAE."""
    del hook
    return activations / 2


@pytest.fixture
def passes(model: HookedTransformer) -> Iterator[list[int]]:
    """Grows by one with every pass through the last block."""
    seen: list[int] = []
    handle = model.blocks[-1].register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


@torch.no_grad()
def all_passes(model: HookedTransformer, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What upstream's reconstruction loss asks of the model."""
    clean = model(tokens, **OPTIONS)
    replaced = model.run_with_hooks(
        tokens, fwd_hooks=[(HOOK_NAME, partial(halve))], **OPTIONS
    )
    ablated = model.run_with_hooks(
        tokens, fwd_hooks=[(HOOK_NAME, standard_zero_ablate_hook)], **OPTIONS
    )
    return [*clean, *replaced, *ablated]


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_results_are_the_models_and_two_of_three_passes_are_saved(
    model: HookedTransformer, contexts: torch.Tensor, passes: list[int]
) -> None:
    tokens = contexts[:1, :16]
    expected = all_passes(model, tokens)
    before: Callable[..., Any] = model.forward
    shared = SharedPasses(1.0)
    passes.clear()
    for made in (3, 1, 1):
        with shared.on(model):
            assert equal(all_passes(model, tokens), expected)
        assert len(passes) == made
        passes.clear()
    assert model.forward == before
    assert "run_with_hooks" not in vars(model)


def test_other_tokens_and_other_hooks_get_their_own(
    model: HookedTransformer, contexts: torch.Tensor
) -> None:
    other = [("blocks.3.hook_resid_post", standard_zero_ablate_hook)]
    first, second = contexts[:1, :16], contexts[1:2, :16]
    expected = all_passes(model, second)
    with torch.no_grad():
        elsewhere = model.run_with_hooks(first, fwd_hooks=other, **OPTIONS)
    with SharedPasses(1.0).on(model), torch.no_grad():
        all_passes(model, first)
        assert equal(all_passes(model, second), expected)
        assert equal(
            [*model.run_with_hooks(first, fwd_hooks=other, **OPTIONS)], [*elsewhere]
        )


def test_nothing_is_kept_beyond_the_memory(
    model: HookedTransformer, contexts: torch.Tensor, passes: list[int]
) -> None:
    tokens = contexts[:1, :16]
    with SharedPasses(1e-6).on(model):
        all_passes(model, tokens)
        passes.clear()
        all_passes(model, tokens)
    assert len(passes) == 3


def test_an_error_leaves_the_model_as_it_was(
    model: HookedTransformer, contexts: torch.Tensor
) -> None:
    before = model.forward

    def broken(activations: torch.Tensor, hook: Any) -> torch.Tensor:
        raise ValueError(hook.name, activations.shape)

    with pytest.raises(ValueError, match=HOOK_NAME), SharedPasses(1.0).on(model):
        model.run_with_hooks(
            contexts[:1, :4], fwd_hooks=[(HOOK_NAME, broken)], **OPTIONS
        )
    assert model.forward == before
    model.reset_hooks()
