"""What the absorption eval needs of the language model alone: words, probes, activations."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from sae_bench.evals.absorption import (
    common,
    feature_absorption,
    feature_absorption_calculator,
    k_sparse_probing,
    main,
    probing,
    util,
)
from sklearn.exceptions import UndefinedMetricWarning
from torch import Tensor
from transformer_lens import HookedTransformer

from eval_recipes.saebench.absorption_words import POSITION, TEMPLATE
from eval_recipes.saebench.upstream import (
    patched,
    preserved_model,
    preserved_state,
    seed_everything,
)

# Activations at POSITION, shaped as upstream reads them, by prompts.
Memory = dict[tuple[str, ...], Tensor]


_WITH_BARS: tuple[Any, ...] = (
    common,
    feature_absorption,
    feature_absorption_calculator,
    k_sparse_probing,
    main,
    probing,
    util,
)


def ensure_probes(
    folder: Path,
    model: HookedTransformer,
    words: Sequence[str],
    *,
    layer: int,
    device: str,
    seed: int,
) -> None:
    """
    Train upstream's first-letter probes on the residual stream, unless ``folder`` has them.

    Writes ``folder/<model>/layer_<layer>``: upstream looks nowhere else, and
    neither template nor words are in its path. Seeded on their own, so that the
    SAE that happens to come first is scored like any other.
    """
    name = str(model.cfg.model_name)
    target = folder / name / f"layer_{layer}"
    if (target / "probe.pth").is_file():
        return
    building = folder / f".{uuid4().hex[:8]}.tmp"
    try:
        with (
            preserved_state(),
            preserved_model(model),
            redirect_stdout(io.StringIO()),
            quiet(),
            upstream_words(words),
            stopping_after(model, layer),
        ):
            torch.set_grad_enabled(True)
            seed_everything(seed)
            common.train_and_save_probes(
                model,
                [layer],
                base_template=TEMPLATE,
                pos_idx=POSITION,
                probes_dir=building,
                device=device,
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder that another process has finished meanwhile holds the same.
        if not target.exists():
            (building / name / f"layer_{layer}").rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Take away upstream's progress bars, dozens for each SAE, and sklearn's warnings."""
    with ExitStack() as stack:
        for module in _WITH_BARS:
            bar = partial(_silent, module.tqdm)
            stack.enter_context(patched(module, "tqdm", bar))
        stack.enter_context(warnings.catch_warnings())
        # A letter without a test word has an F1 of 0 and does not count.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        yield


def _silent(bar: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return bar(*args, **{**kwargs, "disable": True})


@contextmanager
def upstream_words(words: Sequence[str]) -> Iterator[None]:
    """Make these the words of upstream's vocabulary."""
    with ExitStack() as stack:
        for module in (common, feature_absorption):
            stack.enter_context(
                patched(module, "get_alpha_tokens", lambda *_, **__: list(words))
            )
        yield


@contextmanager
def stopping_after(
    model: HookedTransformer, layer: int, memory: Memory | None = None
) -> Iterator[None]:
    """
    Let ``model.run_with_cache`` run no layer that nobody reads.

    Upstream runs the whole model for each prompt. With ``memory``, prompts that
    another SAE was shown are not run again; the caller then gets, at each of
    the last positions, the activation at ``POSITION``.
    """
    run: Callable[..., Any] = model.run_with_cache

    def run_with_cache(
        prompts: list[str], names_filter: list[str], **_: Any
    ) -> tuple[None, dict[str, Tensor]]:
        (hook,) = names_filter
        key = tuple(prompts)
        if memory is not None and key in memory:
            return None, {hook: memory[key]}
        found: Tensor = run(
            prompts, names_filter=names_filter, stop_at_layer=layer + 1
        )[1][hook]
        if memory is not None:
            read = found[:, POSITION].clone()
            memory[key] = found = read[:, None].expand(-1, -POSITION, -1)
        return None, {hook: found}

    with patched(model, "run_with_cache", run_with_cache):
        yield
