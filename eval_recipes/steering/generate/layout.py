"""Prompts of different lengths side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eval_recipes.steering.generate.backend import Backend
from eval_recipes.steering.generate.prompts import Prompt

_WIDTH_STEP = 16


@dataclass(frozen=True)
class Layout:
    """
    Prompts as tensors on the model's device.

    Attributes:
        body: all tokens of each prompt but the last, padded behind [prompt, width].
        mask: 1 at its tokens [prompt, width]; None if nothing is padded.
        last: each prompt's last token [prompt].
        lengths: of the bodies [prompt].
    """

    body: Tensor
    mask: Tensor | None
    last: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, backend: Backend, prompts: Sequence[Prompt]) -> Layout:
        """Lay prompts out; outside float32 all of them as padded, to a multiple of 16."""
        lengths = torch.tensor([len(prompt.tokens) - 1 for prompt in prompts])
        width = int(lengths.max())
        if backend.dtype != torch.float32:
            width = -(-width // _WIDTH_STEP) * _WIDTH_STEP
        body = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            body[row, : lengths[row]] = torch.tensor(
                prompt.tokens[:-1], dtype=torch.long
            )
        mask = (torch.arange(width) < lengths[:, None]).long()
        padded = not bool(mask.all()) or backend.dtype != torch.float32
        last = torch.tensor([prompt.tokens[-1] for prompt in prompts])
        device = backend.device
        return cls(
            body.to(device),
            mask.to(device) if padded else None,
            last.to(device),
            lengths.to(device),
        )
