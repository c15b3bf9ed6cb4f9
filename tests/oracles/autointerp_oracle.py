"""Autointerp's figures the slow way, from a result's details and the model itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from sae_lens import SAE
from transformer_lens import HookedTransformer


def dense_activations(
    model: HookedTransformer, sae: SAE[Any], tokens: torch.Tensor, hook: str
) -> torch.Tensor:
    """Activations one context at a time, special tokens silent: (contexts, size, d_sae)."""
    layer = int(hook.split(".")[1])
    found: list[torch.Tensor] = []
    tokenizer: Any = model.tokenizer
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    with torch.no_grad():
        for row in tokens:
            _, cache = model.run_with_cache(
                row[None], names_filter=hook, stop_at_layer=layer + 1
            )
            latents = sae.encode(cache[hook])[0]
            for position, token in enumerate(row.tolist()):
                if token in special:
                    latents[position] = 0
            found.append(latents)
    return torch.stack(found)


def occurrences(tokens: torch.Tensor, window: list[int]) -> list[tuple[int, int]]:
    """Every context and start at which a window stands in the text."""
    return [
        (row, start)
        for row, context in enumerate(tokens.tolist())
        for start in range(len(context) - len(window) + 1)
        if context[start : start + len(window)] == window
    ]


def scores(details: list[dict[str, Any]]) -> dict[str, float]:
    """The figures of an SAE from its latents' predictions and labels."""
    right: list[float] = []
    floor: list[float] = []
    balanced: list[float] = []
    for detail in details:
        if detail["checked_predictions"] is None or detail["checked_active"] is None:
            continue
        hits = {True: 0, False: 0}
        seen = {True: 0, False: 0}
        for index, active in enumerate(detail["checked_active"]):
            seen[active] += 1
            hits[active] += ((index + 1) in detail["checked_predictions"]) == active
        n = seen[True] + seen[False]
        right.append((hits[True] + hits[False]) / n)
        floor.append(seen[False] / n)
        balanced.append((hits[True] / seen[True] + hits[False] / seen[False]) / 2)
    return {
        "score": math.fsum(right) / len(right),
        "floor": math.fsum(floor) / len(floor),
        "balanced_accuracy": math.fsum(balanced) / len(balanced),
    }
