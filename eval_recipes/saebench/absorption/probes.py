"""What the absorption eval needs of the language model alone: words, probes, activations."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
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
from sae_bench.evals.absorption.probing import LinearProbe
from sklearn.exceptions import UndefinedMetricWarning
from torch import Tensor
from transformer_lens import HookedTransformer

from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.saebench.absorption.words import POSITION, TEMPLATE
from eval_recipes.saebench.upstream import (
    patched,
    preserved_model,
    preserved_state,
    seed_everything,
)

# Activations at POSITION, shaped as upstream reads them, by prompts.
Memory = dict[tuple[str, ...], Tensor]


PROBE = "probe.safetensors"
DATA = "data.npz"
_TABLES = (DATA, "train_df.csv", "test_df.csv")
_ARRAYS = ("X_train", "X_test", "y_train", "y_test")

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
    folder: ArtifactFolder,
    model: HookedTransformer,
    words: Sequence[str],
    *,
    layer: int,
    device: str,
    seed: int,
) -> None:
    """
    Train upstream's first-letter probes on the residual stream, unless ``folder`` has them.

    Seeded on their own, so that the SAE that happens to come first is scored like any other.
    """
    with folder.locked():
        # All are looked at, so that each damaged file is named.
        if None not in [folder.read(name) for name in (PROBE, *_TABLES)]:
            return
        with (
            folder.scratch() as scratch,
            preserved_state(),
            preserved_model(model),
            redirect_stdout(io.StringIO()),
            quiet(),
            upstream_words(words),
            stopping_after(model, layer),
            patched(common, "save_probe_and_data", _save_probe_and_data),
        ):
            torch.set_grad_enabled(True)
            seed_everything(seed)
            common.train_and_save_probes(
                model,
                [layer],
                base_template=TEMPLATE,
                pos_idx=POSITION,
                probes_dir=scratch,
                device=device,
            )
            made = scratch / str(model.cfg.model_name) / f"layer_{layer}"
            for name in (PROBE, *_TABLES):
                with folder.write(name) as temporary:
                    (made / name).replace(temporary)


def _save_probe_and_data(
    probe: LinearProbe, probe_data: Mapping[str, Tensor], probing_path: Path
) -> None:
    """Stand in for upstream's function of that name, which pickles the probe."""
    probing_path.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in probe.state_dict().items()}
    safetensors.torch.save_file(state, probing_path / PROBE)
    arrays = {name: probe_data[name].cpu().detach().numpy() for name in _ARRAYS}
    np.savez(probing_path / DATA, **arrays)


def load_probe(folder: ArtifactFolder, device: str) -> LinearProbe:
    """Return the first-letter probe that ``ensure_probes`` left, in float32."""
    state = safetensors.torch.load_file(folder.require(PROBE))
    outputs, inputs = state["fc.weight"].shape
    # Initial weights are drawn and then overwritten: upstream's draws must not notice.
    with torch.random.fork_rng(devices=[]):
        probe = LinearProbe(inputs, outputs)
    probe.load_state_dict(state)
    return probe.to(device, common.DEFAULT_DTYPE)


@contextmanager
def stored_probes(
    folder: ArtifactFolder, model: HookedTransformer, layer: int, private: Path
) -> Iterator[None]:
    """
    Let upstream read the probes' texts in a private folder, and the probe from ``folder``.

    It would unpickle the probe, so whoever can write to the folder could run code here.
    """
    place = private / str(model.cfg.model_name) / f"layer_{layer}"
    place.mkdir(parents=True)
    for name in _TABLES:
        (place / name).symlink_to(folder.require(name).absolute())

    def load(
        *_: Any, dtype: torch.dtype = common.DEFAULT_DTYPE, device: str, **__: Any
    ) -> LinearProbe:
        return load_probe(folder, device).to(dtype=dtype)

    def load_data(
        model: HookedTransformer, *, base_template: str, pos_idx: int, **rest: Any
    ) -> Any:
        assert (base_template, pos_idx) == (TEMPLATE, POSITION)
        return common.load_probe_data_split(model, **rest)

    with (
        patched(k_sparse_probing, "load_or_train_probe", load),
        patched(k_sparse_probing, "load_probe_data_split_or_train", load_data),
        patched(feature_absorption, "load_probe", load),
    ):
        yield


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
