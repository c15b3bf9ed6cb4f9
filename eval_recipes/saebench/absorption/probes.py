"""Words, probes and activations of the language model for absorption."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
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
from sae_bench.evals.absorption.prompting import (
    VERBOSE_FIRST_LETTER_TEMPLATE,
    VERBOSE_FIRST_LETTER_TOKEN_POS,
)
from sae_bench.evals.absorption.vocab import LETTERS, get_alpha_tokens
from sklearn.exceptions import UndefinedMetricWarning
from torch import Tensor

from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.saebench.upstream import (
    all_patched,
    patched,
    preserved_model,
    preserved_state,
    seed_everything,
)
from saereg_plugin.errors import InputError
from saereg_plugin.sources.models import LanguageModel

# Activations at POSITION, shaped as upstream reads them, by prompts.
Memory = dict[tuple[str, ...], Tensor]


TEMPLATE = VERBOSE_FIRST_LETTER_TEMPLATE
POSITION = VERBOSE_FIRST_LETTER_TOKEN_POS
"""Position of the word's token, counted from the prompt's end, where upstream reads."""

# a fifth are test words; with fewer, letters without any test word are common
_LEAST_WORDS = 10

# Strings given to the tokenizer at once.
_CHUNK = 4096

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
    model: LanguageModel,
    words: Sequence[str],
    *,
    layer: int,
    device: str,
    seed: int,
) -> None:
    """
    Train upstream's first-letter probes on the residual stream, unless ``folder`` has them.

    They are seeded on their own, so that the first SAE is scored like any other.
    """
    with folder.locked():
        # all are read, so that each damaged file is named
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
    """Replace upstream's function of that name, which pickles the probe."""
    probing_path.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in probe.state_dict().items()}
    safetensors.torch.save_file(state, probing_path / PROBE)
    arrays = {name: probe_data[name].cpu().detach().numpy() for name in _ARRAYS}
    np.savez(probing_path / DATA, **arrays)


def load_probe(folder: ArtifactFolder, device: str) -> LinearProbe:
    """Return the stored first-letter probe in float32."""
    state = safetensors.torch.load_file(folder.require(PROBE))
    outputs, inputs = state["fc.weight"].shape
    # Initial weights are drawn and overwritten; upstream's random state must not change.
    with torch.random.fork_rng(devices=[]):
        probe = LinearProbe(inputs, outputs)
    probe.load_state_dict(state)
    return probe.to(device, common.DEFAULT_DTYPE)


@contextmanager
def stored_probes(
    folder: ArtifactFolder, model: LanguageModel, layer: int, private: Path
) -> Iterator[None]:
    """
    Let upstream read the probes' texts in a private folder, and the probe from ``folder``.

    Upstream would unpickle the probe, and a pickle in the folder could run code.
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
        model: LanguageModel, *, base_template: str, pos_idx: int, **rest: Any
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
    """Hide upstream's progress bars, dozens per SAE, and scikit-learn's warnings."""
    bars = [(each, "tqdm", partial(_silent, each.tqdm)) for each in _WITH_BARS]
    with all_patched(bars), warnings.catch_warnings():
        # a letter without a test word has an F1 of 0 and does not count
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        yield


def _silent(bar: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return bar(*args, **{**kwargs, "disable": True})


@contextmanager
def upstream_words(words: Sequence[str]) -> Iterator[None]:
    """Make these the words of upstream's vocabulary."""
    modules = (common, feature_absorption)
    given = [
        (each, "get_alpha_tokens", lambda *_, **__: list(words)) for each in modules
    ]
    with all_patched(given):
        yield


@contextmanager
def stopping_after(
    model: LanguageModel, layer: int, memory: Memory | None = None
) -> Iterator[None]:
    """
    Let ``model.run_with_cache`` stop after the layer that is read.

    Upstream runs the whole model for each prompt. With ``memory``, prompts of an earlier SAE
    are not run again; each of the last positions then holds the activation at ``POSITION``.
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


def first_letter(word: str) -> str:
    """Return the lower-case first letter of a word that may start with a space."""
    return word.strip()[0].lower()


def word_tokens(tokenizer: Any) -> list[str]:
    """
    Return the alphabetic tokens that upstream can read, in the order of their ids.

    Upstream takes them in the order of a hash map, which differs between processes. It reads
    every prompt at one fixed position, which is wrong for a word that the prompt splits into
    several tokens.
    """
    words = get_alpha_tokens(tokenizer)
    found: list[tuple[int, str]] = []
    (head,) = tokenizer(["\n"], add_special_tokens=False)["input_ids"]
    for start in range(0, len(words), _CHUNK):
        chunk = words[start : start + _CHUNK]
        prompts = ["\n" + TEMPLATE.format(word=word) for word in chunk]
        rows = tokenizer(
            prompts, add_special_tokens=False, return_attention_mask=False
        )["input_ids"]
        for word, ids in zip(chunk, rows, strict=True):
            whole = len(ids) == len(head) - POSITION
            if whole and tokenizer.decode([ids[POSITION]]).strip() == word.strip():
                found.append((ids[POSITION], word))
    return [word for _, word in sorted(found)]


def sample_words(
    words: Sequence[str], *, words_per_letter: int | None, seed: int
) -> list[str]:
    """
    Return up to ``words_per_letter`` words of each letter, None for all, in order.

    Raises:
        InputError: if a letter has too few words to train and test a probe.
    """
    by_letter: dict[str, list[int]] = {letter: [] for letter in LETTERS}
    for index, word in enumerate(words):
        by_letter[first_letter(word)].append(index)
    short = [name for name, found in by_letter.items() if len(found) < _LEAST_WORDS]
    if short:
        raise InputError(
            "absorption needs a vocabulary whose tokens are words: this tokenizer has fewer than "
            f"{_LEAST_WORDS} that start with {', '.join(short)}."
        )
    if words_per_letter is None:
        return list(words)
    generator = random.Random(seed)
    chosen = [
        index
        for found in by_letter.values()
        for index in generator.sample(found, min(words_per_letter, len(found)))
    ]
    return [words[index] for index in sorted(chosen)]
