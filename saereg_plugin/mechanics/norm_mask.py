"""Filter of activations of unusual norm (arXiv 2603.04198)."""

from __future__ import annotations

import torch
from typing_extensions import override

from saereg_plugin.component import Component
from saereg_plugin.errors import InputError
from saereg_plugin.kernels.blocks import row_norms


class NormMask(Component):
    """
    Drop rows with a norm above ``multiple`` times the running median norm.

    The running median is an exponential average of the batches' medians, with one update in
    an optimiser step, this batch included. Dropped rows do not enter the loss and count as
    not firing (SAELens divides by the whole batch).

    Args:
        multiple: of the running median, above 1.
        decay: weight of the past in the running median.

    Raises:
        InputError: in a step that would drop all rows.
    """

    running_median: torch.Tensor

    def __init__(self, *, label: str, multiple: float, decay: float = 0.99):
        super().__init__(label=label)
        self.multiple = multiple
        self.decay = decay
        # 0 stands for "no batch seen yet": a NaN would not survive as an SAE's metadata
        self.register_buffer("running_median", torch.tensor(0.0))
        self._next_median: torch.Tensor | None = None

    @override
    def prepare(self, sae_in: torch.Tensor) -> torch.Tensor:
        norms = row_norms(sae_in)
        median = norms.median()
        past = torch.where(self.running_median > 0, self.running_median, median)
        running = self.decay * past + (1 - self.decay) * median
        keep = norms <= self.multiple * running
        kept = int(keep.sum())
        dropped = sae_in.shape[0] - kept
        self.logged = {"dropped": float(dropped), "running_median": running}
        if kept == 0:
            raise InputError(
                f"{self.label}: every activation of the batch exceeds {self.multiple} x the running "
                f"median norm {float(running):.4g} (this batch's median is "
                f"{float(median):.4g}). The scale of the activations changed during training. "
                "Raise 'max_norm_multiple' and train into a new folder, or check the text."
            )
        self._next_median = running
        return sae_in if dropped == 0 else sae_in[keep]

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._next_median is not None:
            self.running_median.copy_(self._next_median)
            self._next_median = None
