"""Passes of a language model whose weights are held fixed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saereg_plugin.errors import InputError
from saereg_plugin.finetuning.losses import Objective
from saereg_plugin.sources.fingerprint import fingerprint
from saereg_plugin.sources.models import LanguageModel

_BLOCK = re.compile(r"blocks\.(?P<layer>[0-9]+)\.(?P<rest>.+)")
_RESIDUAL = {"hook_resid_pre": 0, "hook_resid_post": 1}
"""Hooks that are a whole residual stream, with the layers from them to the next block."""


@dataclass(frozen=True)
class Start:
    """
    The layer from which the model runs with a reconstruction in place.

    Attributes:
        layer: first block that runs; None runs from the tokens.
        enters: whether the reconstruction is the block's input; otherwise it is put in place
            by a hook, and ``hook`` names the block's input.
    """

    layer: int | None
    enters: bool
    hook: str | None = None


def start_of(point: str) -> Start:
    """
    Return from which layer a pass with a changed hook must run.

    >>> start_of("blocks.3.hook_resid_post")
    Start(layer=4, enters=True, hook=None)
    """
    found = _BLOCK.fullmatch(point)
    if found is None:
        return Start(None, enters=False)
    layer, rest = int(found["layer"]), found["rest"]
    if rest in _RESIDUAL:
        return Start(layer + _RESIDUAL[rest], enters=True)
    return Start(layer, enters=False, hook=f"blocks.{layer}.hook_resid_pre")


@dataclass(frozen=True)
class CleanPass:
    """
    One batch of contexts as the language model computes it, without gradients.

    Attributes:
        tokens: (contexts, tokens).
        keep: bool (contexts, tokens); tokens that the SAEs are trained on.
        activations: by point, (contexts, tokens, ...).
        inputs: input of the first block that runs again, by name of its hook.
        log_p: log probabilities at the kept tokens, float32 (n, vocabulary); None for MSE.
        later: resid_pre of the layers after each point, where they are compared.
    """

    tokens: Tensor
    keep: Tensor
    activations: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    log_p: Tensor | None = None
    later: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)

    def rows(self, point: str) -> Tensor:
        """Return the kept activations at a point, float32 (n, d_in)."""
        return self.activations[point].flatten(2)[self.keep].float()

    def with_rows(self, point: str, rows: Tensor, places: Tensor) -> Tensor:
        """
        Return the activations at a point with ``rows`` (m, d_in) in place; the others stay.

        ``places`` [m] numbers them among the kept rows.
        """
        whole = self.activations[point]
        flat = whole.flatten(2).flatten(0, 1)
        index = self.keep.flatten().nonzero().squeeze(1)[places]
        return flat.index_copy(0, index, rows.to(flat.dtype)).view_as(whole)


class FrozenModel:
    """
    A language model that is read, and never trained.

    Args:
        model: in memory.
        points: hooks of the SAEs.
        objective: decides what is computed after the hooks.

    Raises:
        InputError: if no layer after a hook is left to compare, or a pass cannot start in the
            middle of the model.
    """

    def __init__(
        self, model: LanguageModel, points: Sequence[str], objective: Objective
    ) -> None:
        self.model = model.eval()
        self._points = list(points)
        self._objective = objective
        self._starts = {point: self._start(point) for point in points}
        self._later = {
            point: self._hooks_after(point) if objective.reads_later_layers else []
            for point in points
        }
        self._known = fingerprint(self.model)

    @torch.no_grad()
    def clean(self, tokens: Tensor, keep: Tensor) -> CleanPass:
        """Run a batch of contexts; to the end only if the objective reads logits."""
        starts = self._starts.values()
        inputs = list(dict.fromkeys(start.hook for start in starts if start.hook))
        later = list(dict.fromkeys(h for hooks in self._later.values() for h in hooks))
        wanted = list(dict.fromkeys([*self._points, *inputs, *later]))
        kept: dict[str, Tensor] = {}

        def keep_it(value: Tensor, hook: Any) -> None:
            kept[hook.name] = value.detach()

        to_end = self._objective.reads_logits
        with self.model.hooks(fwd_hooks=[(name, keep_it) for name in wanted]):
            out = self.model(
                tokens,
                return_type="logits" if to_end else None,
                stop_at_layer=None if to_end else self._last_layer(),
                padding_side="right",
            )
        return CleanPass(
            tokens=tokens,
            keep=keep,
            activations={point: kept[point] for point in self._points},
            inputs={name: kept[name] for name in inputs},
            log_p=F.log_softmax(out[keep].float(), dim=-1) if to_end else None,
            later={p: [kept[h] for h in hooks] for p, hooks in self._later.items()},
        )

    def patched(
        self, clean: CleanPass, point: str, changed: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """
        Return the logits with ``changed`` at a point, and resid_pre of the layers to compare.

        Args:
            clean: the pass of the same contexts.
            point: a hook.
            changed: activations there, of the shape and type of the clean ones.

        Returns:
            logits (contexts, tokens, vocabulary), with gradients to ``changed``.
        """
        start = self._starts[point]
        later: dict[str, Tensor] = {}

        def keep_it(value: Tensor, hook: Any) -> None:
            later[hook.name] = value

        def replace_it(value: Tensor, hook: Any) -> Tensor:
            del value, hook
            return changed

        hooks: list[Any] = [(name, keep_it) for name in self._later[point]]
        if not start.enters:
            hooks.append((point, replace_it))
        given: dict[str, Any] = {"return_type": "logits"}
        first = clean.tokens
        if start.layer is not None:
            given["start_at_layer"] = start.layer
            first = changed if start.enters else clean.inputs[str(start.hook)]
        else:
            given["padding_side"] = "right"
        with self.model.hooks(fwd_hooks=hooks):
            logits = self.model(first, **given)
        return logits, [later[name] for name in self._later[point]]

    def require_unchanged(self) -> None:
        """
        Compare the weights with those at the beginning.

        Raises:
            RuntimeError: if they changed, or have gradients.
        """
        trained = [n for n, p in self.model.named_parameters() if p.grad is not None]
        if trained or fingerprint(self.model) != self._known:
            raise RuntimeError(
                f"The weights of the language model changed ({trained[:3]}); they are held fixed."
            )

    def _start(self, point: str) -> Start:
        start = start_of(point)
        kind = getattr(self.model.cfg, "positional_embedding_type", "")
        if start.layer is not None and kind == "shortformer":
            # its blocks add positions of the whole text, which only a pass from the tokens has
            return Start(None, enters=False)
        return start

    def _hooks_after(self, point: str) -> list[str]:
        """Return resid_pre of the layers after the first that a point changes."""
        start = self._starts[point]
        first = 0 if start.layer is None else start.layer + 1
        names = [
            f"blocks.{layer}.hook_resid_pre"
            for layer in range(first, self.model.cfg.n_layers)
        ]
        if not names:
            raise InputError(
                f"loss='e2e': no layer after hook {point!r} is left to compare; expected one. Choose "
                "downstream_coefficient=0, or loss='kl'."
            )
        return names

    def _last_layer(self) -> int | None:
        """Return the layer before which a pass that reads only hooks may end; None if unknown."""
        layers: list[int] = []
        for point in self._points:
            found = _BLOCK.fullmatch(point)
            if found is None:
                return None
            layers.append(int(found["layer"]) + 1)
        return max(layers)
