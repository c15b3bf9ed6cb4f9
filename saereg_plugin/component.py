"""
Protocol of regularisers and mechanics.

A component is a module without parameters that belongs to one training SAE.
In each training step the SAE calls, in this order and for every component:

1. ``setup(sae)``: once, before the first step of this process;
2. ``prepare(sae_in)``: may inspect the batch or return fewer rows of it;
3. ``loss(step)``: after the forward pass, in float32 with autocast off;
4. ``end_pass()``: when the pass is over, also if it raised an error;
5. ``gradient(name, parameter)``: when autograd has written ``parameter.grad``,
   before SAELens clips it;
6. ``before_step(lr)``: before the optimiser's step, after clipping;
7. ``after_step(optimizer)``: after the optimiser's step.

Steps 5 to 7 run without gradient tracking: a gradient changed in place with
tracking on would keep the graph of every step alive.

A step is one forward pass, one backward pass and one optimiser step, as in SAELens'
trainers. A second backward pass onto the gradients of the first is refused: a
component changes the sum of gradients as it stands, so the first pass's part would be
changed twice. A component knows the last forward pass only, so a backward pass or an
optimiser step of an earlier one is also refused. A forward pass need not be followed by
a step, so state that counts steps is computed in ``loss`` and committed in
``after_step``. Forward passes under ``torch.no_grad`` call no component and may come at
any time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from sae_lens import TrainingSAE
from torch import nn
from typing_extensions import override

from saereg_plugin.kernels.encode import ActiveLatents, WiderSelection


@dataclass(frozen=True)
class Step:
    """
    The tensors of one training step, after the forward pass.

    Shapes use SAELens' names. Activations are scaled as the SAE sees them; if
    the SAE has ``rescale_acts_by_decoder_norm``, ``hidden_pre`` and
    ``feature_acts`` are multiplied by the norms of the decoder's rows.

    Attributes:
        sae: the SAE, for its parameters and configuration.
        index: completed optimiser steps, 0 in the first step.
        sae_in: input, [batch, d_in].
        hidden_pre: pre-activations before the ReLU, [batch, d_sae]; [0, d_sae] in a
            sparse step.
        feature_acts: latent activations after the sparsifier, [batch, d_sae]; in a sparse
            step a sparse tensor without gradients.
        sae_out: reconstruction, [batch, d_in].
        dead_mask: True where SAELens calls a latent dead, [d_sae].
        active: the selected latents with gradients in a sparse step, else None.
        wider: the selection of a sparse step from which ``active`` was taken, if a regulariser
            asks for more than k latents (``selection_multiple``), else None.
    """

    sae: TrainingSAE[Any]
    index: int
    sae_in: torch.Tensor
    hidden_pre: torch.Tensor
    feature_acts: torch.Tensor
    sae_out: torch.Tensor
    dead_mask: torch.Tensor | None
    active: ActiveLatents | None = None
    wider: WiderSelection | None = None


class Component(nn.Module):
    """
    A part of a training SAE that acts around its steps. All methods are optional.

    State that must survive a checkpoint lives in buffers, which keep their data
    type when the SAE is cast, or in the whole numbers that ``counts`` names. A subclass that
    draws random numbers sets ``draws = True`` and uses ``self.generator``; checkpoints keep
    its state.

    Args:
        label: name in the logs and in the state dict; unique in one SAE.
        seed: seed of the component's own generator.
    """

    draws: bool = False
    in_loss: bool = True
    """Whether the value of ``loss`` is added to the training loss or only logged."""
    counts: tuple[str, ...] = ()
    """Names of attributes, whole numbers of 0 or more, that a checkpoint keeps."""

    def __init__(self, *, label: str, seed: int = 0):
        super().__init__()
        self.label = label
        self.logged: dict[str, torch.Tensor | float] = {}
        self._sae: weakref.ref[TrainingSAE[Any]] | None = None
        self._generator: torch.Generator | None = None
        if self.draws:
            state = torch.Generator().manual_seed(seed).get_state()
            self.register_buffer("generator_state", state)

    @property
    def sae(self) -> TrainingSAE[Any]:
        """The SAE this component belongs to (held weakly: it must not become a submodule)."""
        sae = None if self._sae is None else self._sae()
        if sae is None:
            raise RuntimeError(f"{self.label} is not attached to an SAE.")
        return sae

    def attach(self, sae: TrainingSAE[Any]) -> None:
        """Make ``sae`` the owner."""
        self._sae = weakref.ref(sae)

    @override
    def __getstate__(self) -> dict[str, Any]:
        # a copy has no owner until its SAE's forward pass; a weak reference cannot be pickled
        return {**self.__dict__, "_sae": None}

    def allocate(self, sae: TrainingSAE[Any]) -> None:
        """Register buffers that have shapes of the SAE's parameters; called when it is built."""

    def setup(self, sae: TrainingSAE[Any]) -> None:
        """Prepare for training ``sae``; its ``cfg.metadata`` is filled in by now."""

    def prepare(self, sae_in: torch.Tensor) -> torch.Tensor:
        """Return the rows of ``sae_in`` [batch, d_in] to train on; all by default."""
        return sae_in

    def loss(self, step: Step) -> torch.Tensor | None:
        """Return a scalar to add to the loss (see ``in_loss``), or None."""
        return None

    def metrics(self) -> dict[str, torch.Tensor | float]:
        """Return further values to log for this step: by default ``self.logged``."""
        return self.logged

    def end_pass(self) -> None:
        """Undo what was changed for the forward pass alone; called even if it failed."""

    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Change ``parameter.grad`` of the SAE's parameter ``name`` in place."""

    def before_step(self, lr: float) -> None:
        """Act before the optimiser's step, with its learning rate."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Act after the optimiser's step."""

    def restarted(self, latents: torch.Tensor) -> None:
        """Forget what was kept of ``latents`` (int64 [n]), which were just reset."""

    def saved_weights(self, sae: TrainingSAE[Any]) -> dict[str, torch.Tensor]:
        """Return tensors, by name, that the saved SAE has instead of its parameters."""
        return {}

    def finish(self, sae: TrainingSAE[Any]) -> None:
        """Forget what ``saved_weights`` returned, which are the parameters from now on."""

    @property
    def generator(self) -> torch.Generator:
        """The component's own CPU generator."""
        if not self.draws:
            raise RuntimeError(f"{type(self).__name__} must set draws = True to draw.")
        if self._generator is None:
            self._generator = torch.Generator()
            self._generator.set_state(cast(torch.Tensor, self.generator_state).cpu())
        return self._generator

    @override
    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        if self._generator is not None:
            buffer = cast(torch.Tensor, self.generator_state)
            buffer.copy_(self._generator.get_state())
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.counts:
            destination[prefix + name] = encode_count(getattr(self, name))

    @override
    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in self.counts:
            if prefix + name in state_dict:
                setattr(self, name, decode_count(state_dict.pop(prefix + name)))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._generator = None

    @override
    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True):
        # sae.to(bfloat16) would round running averages; they move, but keep their type
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = cast(torch.Tensor, getattr(self, name))
            if new.dtype != old.dtype:
                setattr(self, name, old.to(new.device))
        return self


def encode_count(count: int) -> torch.Tensor:
    """
    Return a non-negative integer as 8 bytes, uint8 [8].

    Bytes are exact in every floating type, bfloat16 included; an integer above
    256 is not.
    """
    return torch.tensor(list(count.to_bytes(8, "little")), dtype=torch.uint8)


def decode_count(encoded: torch.Tensor) -> int:
    """Return the integer that ``encode_count`` wrote."""
    return int.from_bytes(bytes(int(byte) for byte in encoded.tolist()), "little")
