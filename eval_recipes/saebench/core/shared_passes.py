"""Passes of the language model that do not depend on the SAE, made once for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformer_lens import HookedTransformer

from eval_recipes.saebench.upstream import patched

_Passed = tuple[torch.Tensor, ...]

_ZERO_ABLATION = "standard_zero_ablate_hook"
"""Upstream's hook that puts zeros in place of the whole activation."""


class SharedPasses:
    """
    Remembers the clean and the zero-ablated passes of core's reconstruction batches.

    Two of core's three passes of the whole model are the same for every SAE of one hook;
    SAEs see the same tokens, because upstream is seeded before each.

    Args:
        memory_gib: results are kept up to this much; what is beyond is computed again.
    """

    def __init__(self, memory_gib: float):
        self._bytes = self._left = memory_gib * 2**30
        self._model: HookedTransformer | None = None
        self._kept: dict[tuple[str, ...], _Passed] = {}

    @contextmanager
    def on(self, model: HookedTransformer) -> Iterator[None]:
        """Answer from memory within this block; another model than before starts anew."""
        if model is not self._model:
            self._model, self._left = model, self._bytes
            self._kept.clear()
        forward, with_hooks = model.forward, model.run_with_hooks
        hooked = False

        def clean(tokens: Any, *args: Any, **kwargs: Any) -> Any:
            if hooked or args or kwargs.get("return_type") != "both":
                return forward(tokens, *args, **kwargs)
            return self._once(
                ("clean", repr(kwargs)),
                tokens,
                lambda: forward(tokens, **kwargs),
            )

        def ablated(tokens: Any, *args: Any, **kwargs: Any) -> Any:
            def run() -> Any:
                nonlocal hooked
                hooked = True
                try:
                    return with_hooks(tokens, *args, **kwargs)
                finally:
                    hooked = False

            options = dict(kwargs)
            hooks = options.pop("fwd_hooks", [])
            names = [getattr(function, "__name__", "") for _, function in hooks]
            if (
                args
                or names != [_ZERO_ABLATION]
                or options.get("return_type") != "both"
            ):
                return run()
            key = ("ablated", str(hooks[0][0]), repr(options))
            return self._once(key, tokens, run)

        with (
            patched(model, "forward", clean),
            patched(model, "run_with_hooks", ablated),
        ):
            yield

    def _once(
        self, key: tuple[str, ...], tokens: torch.Tensor, run: Callable[[], _Passed]
    ) -> _Passed:
        digest = hashlib.sha256(tokens.cpu().numpy().tobytes()).hexdigest()
        key = (*key, digest, str(tuple(tokens.shape)))
        if key in self._kept:
            return self._kept[key]
        passed = run()
        size = sum(tensor.numel() * tensor.element_size() for tensor in passed)
        if size <= self._left:
            self._left -= size
            self._kept[key] = passed
        return passed
