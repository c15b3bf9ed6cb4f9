"""Steering the slow way: one text, one whole forward pass a token, no cache, no batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer


def step_logits(
    model: Any,
    hook_name: str,
    prompt: Sequence[int],
    tokens: Sequence[int],
    added: Tensor,
    first: int,
) -> Tensor:
    """
    Logits [step, vocabulary] before each of ``tokens``, which follow ``prompt``.

    ``added`` [d_model] goes to every position from ``first`` on.
    """
    rows = []
    for step in range(len(tokens)):
        text = torch.tensor([[*prompt, *tokens[:step]]])
        rows.append(whole_logits(model, hook_name, text, added, first)[0, -1])
    return torch.stack(rows).float()


@torch.no_grad()
def whole_logits(
    model: Any, hook_name: str, text: Tensor, added: Tensor, first: int
) -> Tensor:
    """Logits [1, position, vocabulary] of one text."""

    def steer(residual: Tensor) -> Tensor:
        changed = residual.clone()
        for position in range(first, changed.shape[1]):
            changed[0, position] += added
        return changed

    def on_point(residual: Tensor, hook: Any) -> Tensor:
        assert hook.name == hook_name
        return steer(residual)

    def on_input(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (steer(args[0]), *args[1:])

    def on_output(_module: Any, _args: Any, output: Tensor) -> Tensor:
        return steer(output)

    if isinstance(model, HookedTransformer):
        return model.run_with_hooks(text, fwd_hooks=[(hook_name, on_point)])
    _, layer, part = hook_name.split(".")
    root = getattr(model, "model", None) or getattr(model, "gpt_neox", None)
    blocks = root.layers if root is not None else model.transformer.h
    block = blocks[int(layer)]
    handle = (
        block.register_forward_pre_hook(on_input)
        if part == "hook_resid_pre"
        else block.register_forward_hook(on_output)
    )
    try:
        return model(text).logits
    finally:
        handle.remove()


def nucleus(logits: Sequence[float], temperature: float, top_p: float) -> list[int]:
    """The ids of the nucleus, by sorting everything."""
    scaled = [logit / temperature for logit in logits]
    top = max(scaled)
    weights = [math.exp(value - top) for value in scaled]
    total = math.fsum(weights)
    kept: list[int] = []
    reached = 0.0
    for token in sorted(range(len(logits)), key=lambda one: (-scaled[one], one)):
        if reached >= top_p:
            break
        kept.append(token)
        reached += weights[token] / total
    return sorted(kept)


def sampled(logits: Sequence[float], u: float, temperature: float, top_p: float) -> int:
    """The token whose interval of the nucleus' CDF, in the order of ids, holds ``u``."""
    kept = nucleus(logits, temperature, top_p)
    top = max(logits)
    weights = [math.exp((logits[token] - top) / temperature) for token in kept]
    total = math.fsum(weights)
    reached = 0.0
    for token, weight in zip(kept, weights, strict=True):
        reached += weight / total
        if u < reached:
            return token
    return kept[-1]


def text_nll(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> float:
    """Mean negative log-probability of tokens, one forward pass each."""
    total = 0.0
    for step, token in enumerate(tokens):
        log_p = _next_log_p(model, [*prompt, *tokens[:step]])
        total -= float(log_p[token])
    return total / len(tokens)


def concept_log_p(
    model: Any, prompt: Sequence[int], tokens: Sequence[int], concept: Sequence[int]
) -> float:
    """Mean over the positions of ``tokens`` of the concept's log-probability as next token."""
    values = []
    for step in range(1, len(tokens) + 1):
        log_p = _next_log_p(model, [*prompt, *tokens[:step]])
        values.append(math.log(sum(math.exp(float(log_p[one])) for one in concept)))
    return sum(values) / len(values)


@torch.no_grad()
def _next_log_p(model: Any, text: Sequence[int]) -> Tensor:
    output = model(torch.tensor([list(text)]))
    logits = output if isinstance(output, Tensor) else output.logits
    return logits[0, -1].double().log_softmax(-1)
