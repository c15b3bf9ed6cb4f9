"""
Continuations of prompts, steered and not, many at a time.

Every row of a batch has its own vector. All tokens of a prompt but the last are read once,
however many texts there are (only ``positions="all"`` makes them differ). Then every text
grows by one token a step. Prompts shorter than the longest are padded behind, and masks and
positions step over the padding.

A text depends only on its request: its random numbers do (see ``uniforms``), and in float32
its logits do up to rounding. In other dtypes rounding is coarse, so there all batches have
the same number of rows and the same width; then equal rows give equal texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from eval_recipes.steering.generate.backend import Backend, pad_rows
from eval_recipes.steering.generate.decoding import (
    Continuation,
    Decoding,
    Request,
    Steering,
    greedy,
    require_numbers,
    sample,
    uniforms,
)
from eval_recipes.steering.generate.prompts import Prompt, decode_continuation
from saereg_plugin.errors import InputError

Observer = Callable[[int, Tensor], None]
"""Takes the number of a batch's first request and logits [step, row, vocabulary]."""

_PROMPTS_AT_ONCE = 8
_WIDTH_STEP = 16


def generate(
    backend: Backend,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    requests: Sequence[Request],
    *,
    steering: Steering | None = None,
    decoding: Decoding | None = None,
    batch_size: int = 128,
    observe: Observer | None = None,
) -> list[Continuation]:
    """
    Return a continuation for each request, in their order.

    Args:
        backend: the language model.
        tokenizer: its tokenizer.
        prompts: what is continued.
        requests: prompt, random numbers, vector and strength of each text.
        steering: the vectors and where they are added; None if no request names a vector.
        decoding: how tokens are chosen; None for the published setting.
        batch_size: texts at a time.
        observe: is given all logits, for inspection.

    Raises:
        InputError: if requests, prompts, vectors and model do not fit each other.
    """
    decoding = decoding or Decoding()
    _check(backend, prompts, requests, steering, batch_size)
    layout = Layout.of(backend, prompts)
    added = steering.offsets(list(requests)) if steering is not None else None
    texts: list[Continuation] = []
    with torch.no_grad():
        shared = None
        if steering is None or steering.positions != "all":
            shared = _read_prompts(backend, layout)
        starts = range(0, len(requests), batch_size)
        for start in tqdm(starts, desc="texts", leave=False, disable=None):
            rows = list(range(start, min(start + batch_size, len(requests))))
            kept = len(rows)
            if backend.dtype != torch.float32:
                rows += [rows[0]] * (batch_size - kept)
            batch = _Batch(
                [requests[row] for row in rows], None if added is None else added[rows]
            )
            tokens: list[Tensor] = []
            near: list[Tensor] = []
            seen: list[Tensor] = []
            numbers = batch.random_numbers(prompts, decoding)
            for logits, chosen, ties in _steps(
                backend, layout, batch, numbers, shared, steering, decoding
            ):
                tokens.append(chosen)
                near.append(ties)
                if observe is not None:
                    seen.append(logits[:kept])
            if observe is not None:
                observe(start, torch.stack(seen).float())
            texts += [
                _continuation(
                    tokenizer, prompts[request.prompt], ids, ties, decoding.stop_at_eos
                )
                for request, ids, ties in zip(
                    batch.requests[:kept],
                    torch.stack(tokens, dim=1).tolist(),
                    torch.stack(near, dim=1).tolist(),
                    strict=False,
                )
            ]
    return texts


@dataclass(frozen=True)
class _Batch:
    """Requests, and the vectors added to each [row, d_model]."""

    requests: list[Request]
    added: Tensor | None

    def random_numbers(self, prompts: Sequence[Prompt], decoding: Decoding) -> Tensor:
        """Return the random numbers of each text [row, step]."""
        numbers = [
            uniforms(
                decoding.seed,
                prompts[request.prompt].text,
                request.sample,
                decoding.new_tokens,
            )
            for request in self.requests
        ]
        return torch.from_numpy(np.stack(numbers))


def _read_prompts(backend: Backend, layout: Layout) -> list[Any]:
    """Return states of all prompts, read in equal chunks: no prompt changes another's state."""
    states: list[Any] = []
    for start in range(0, len(layout.body), _PROMPTS_AT_ONCE):
        rows = torch.arange(start, start + _PROMPTS_AT_ONCE)
        rows = rows.clamp(max=len(layout.body) - 1).to(backend.device)
        states.append(_read(backend, layout, rows))
    return states


def _read(backend: Backend, layout: Layout, rows: Tensor) -> Any:
    mask = None if layout.mask is None else layout.mask[rows]
    return backend.read(layout.body[rows], mask)


def _steps(
    backend: Backend,
    layout: Layout,
    batch: _Batch,
    numbers: Tensor,
    shared: list[Any] | None,
    steering: Steering | None,
    decoding: Decoding,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield logits [row, vocabulary], tokens [row] and near ties [row] of each step."""
    device = backend.device
    rows = torch.tensor([request.prompt for request in batch.requests], device=device)
    numbers = numbers.to(device)
    steered = False
    context: Any = nullcontext()
    if steering is not None and batch.added is not None:
        vectors = batch.added.to(device, backend.dtype)[:, None, :]

        def change(residual: Tensor) -> Tensor:
            return residual + vectors if steered else residual

        context = backend.intervene(steering.hook_name, change)
    positions = "generation" if steering is None else steering.positions
    mask = None
    if layout.mask is not None:
        ones = layout.mask.new_ones(len(rows), decoding.new_tokens)
        mask = torch.cat([layout.mask[rows], ones], dim=1)
    with context:
        places = rows
        if shared is None:
            steered = True
            shared = [_read(backend, layout, rows)]
            places = torch.arange(len(rows), device=device)
        state = backend.select(shared, places, decoding.new_tokens)
        tokens = layout.last[rows]
        for step in range(decoding.new_tokens):
            steered = step > 0 or positions != "generation"
            seen = None if mask is None else mask[:, : layout.body.shape[1] + step + 1]
            logits = backend.step(state, tokens, seen, layout.lengths[rows] + step)
            require_numbers(logits, batch.added)
            if decoding.greedy:
                tokens, ties = greedy(logits)
            else:
                tokens, ties = sample(
                    logits,
                    numbers[:, step],
                    temperature=decoding.temperature,
                    top_p=decoding.top_p,
                )
            yield logits, tokens, ties


def _continuation(
    tokenizer: Any, prompt: Prompt, ids: list[int], ties: list[bool], stop_at_eos: bool
) -> Continuation:
    length = len(ids)
    if stop_at_eos and tokenizer.eos_token_id in ids:
        length = ids.index(tokenizer.eos_token_id)
    # the choice of the EOS itself may also be a near tie
    places = [place for place, tie in enumerate(ties[: length + 1]) if tie]
    return Continuation(
        tokens=tuple(ids[:length]),
        text=decode_continuation(tokenizer, prompt, ids[:length]),
        near_ties=len(places),
        first_near_tie=places[0] if places else None,
    )


def _check(
    backend: Backend,
    prompts: Sequence[Prompt],
    requests: Sequence[Request],
    steering: Steering | None,
    batch_size: int,
) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected 1 or more.")
    if not prompts:
        raise InputError("No prompt was given; expected one or more.")
    for request in requests:
        if not 0 <= request.prompt < len(prompts):
            raise InputError(
                f"A request names prompt {request.prompt}; expected one of the {len(prompts)} "
                "given."
            )
        if steering is None and request.vector is not None:
            raise InputError(
                f"A request names vector {request.vector}, but no steering was given."
            )
    if steering is not None and steering.vectors.shape[1] != backend.d_model:
        raise InputError(
            f"The vectors have {steering.vectors.shape[1]} entries; expected "
            f"{backend.d_model}, the width of the model's residual stream. Is it the model "
            "that the SAE was trained on?"
        )


@dataclass(frozen=True)
class Layout:
    """Prompts as tensors on the model's device."""

    body: Tensor
    """All tokens of each prompt but the last, padded behind [prompt, width]."""
    mask: Tensor | None
    """1 at tokens of the body [prompt, width]; None if nothing is padded."""
    last: Tensor
    """Each prompt's last token [prompt]."""
    lengths: Tensor
    """Tokens of each body [prompt]."""

    @classmethod
    def of(cls, backend: Backend, prompts: Sequence[Prompt]) -> Layout:
        """Lay prompts out; outside float32 padded to a multiple of 16 tokens."""
        lengths = torch.tensor([len(prompt.tokens) - 1 for prompt in prompts])
        width = int(lengths.max())
        if backend.dtype != torch.float32:
            width = -(-width // _WIDTH_STEP) * _WIDTH_STEP
        body, mask = pad_rows([prompt.tokens[:-1] for prompt in prompts])
        wider = (0, width - body.shape[1])
        body, mask = (nn.functional.pad(rows, wider) for rows in (body, mask))
        padded = not bool(mask.all()) or backend.dtype != torch.float32
        last = torch.tensor([prompt.tokens[-1] for prompt in prompts])
        device = backend.device
        return cls(
            body.to(device),
            mask.to(device) if padded else None,
            last.to(device),
            lengths.to(device),
        )
