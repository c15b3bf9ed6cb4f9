"""Activations and probes of the language model, stored once per hook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict, cast

import torch
from beartype import beartype
from jaxtyping import jaxtyped
from sae_bench.evals.sparse_probing import main as upstream_main
from sae_bench.evals.sparse_probing import probe_training
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils import activation_collection, dataset_info, dataset_utils
from sae_lens import SAE
from torch import Tensor

from eval_recipes.labelled.probing import get_multi_label_train_test_data, probing_sets
from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.sparse_probing.paired import Draws, draw, score, to_tensors
from eval_recipes.saebench.upstream import patched
from saereg_plugin.sources.models import LanguageModel

PAIRED_FILE = "paired.pt"
"""File of the language model's part of the corrected figures."""


class Activations(TypedDict):
    """Upstream's file: by class (texts, tokens, d_in), 0 at special tokens."""

    train: dict[str, Tensor]
    test: dict[str, Tensor]
    llm_results: dict[str, dict[str, float]]


class Paired(TypedDict):
    """Content of ``PAIRED_FILE``."""

    sizes: dict[str, tuple[int, int]]
    """Train and test texts by class."""
    left_out: dict[str, Tensor]
    """By class, True for test texts with the tokens of a train text."""
    llm: dict[str, dict[str, Tensor]]
    """By reader and class, whether the probe was right on each of its test texts."""


def activations_name(dataset_name: str) -> str:
    """Return what upstream calls the activations of a data set."""
    return f"{dataset_name}_activations.pt".replace("/", "_")


def load_activations(folder: ArtifactFolder, dataset_name: str) -> Activations:
    """Return the activations as a file mapped into memory."""
    path = folder.require(activations_name(dataset_name))
    return torch.load(path, mmap=True, weights_only=True)


def load_paired(folder: ArtifactFolder) -> Paired:
    """Return the content of ``PAIRED_FILE``."""
    return torch.load(folder.require(PAIRED_FILE), weights_only=True)


def draws_of(paired: Paired, dataset_name: str, seed: int) -> Draws:
    """Return the texts of the corrected probes of a data set."""
    left_out = {name: mask.numpy() for name, mask in paired["left_out"].items()}
    return draw(paired["sizes"], left_out, dataset_name=dataset_name, seed=seed)


@contextmanager
def repaired() -> Iterator[None]:
    """
    Make upstream's probe trainer callable.

    It is decorated with ``beartype`` alone. Since 0.18 its dimensions count as those of the
    ``jaxtyped`` caller, which has another number of texts, so every call raises.
    """
    function = cast("Any", probe_training.train_sklearn_probe)
    fixed = jaxtyped(typechecker=beartype)(getattr(function, "__wrapped__", function))
    with patched(probe_training, "train_sklearn_probe", fixed):
        yield


@contextmanager
def data_source(data: str) -> Iterator[None]:
    """Give upstream the embedded sets under their names, if ``data`` says so."""
    if data != "embedded":
        yield
        return
    classes = {**dataset_info.chosen_classes_per_dataset, **probing_sets()}
    with (
        patched(dataset_info, "chosen_classes_per_dataset", classes),
        patched(
            dataset_utils,
            "get_multi_label_train_test_data",
            get_multi_label_train_test_data,
        ),
    ):
        yield


class _WarmError(Exception):
    """Upstream has stored the activations and continues with the SAE."""


def ensure(
    folder: ArtifactFolder,
    dataset_name: str,
    config: SparseProbingEvalConfig,
    sae: SAE[Any],
    model: LanguageModel,
    context: RunContext,
) -> None:
    """
    Fill a folder with the activations and the model's own probes of one data set.

    Upstream scores the first SAE right after it trains the model's probes, and the others
    from its file, with other random numbers. So the file is always made first, without an
    SAE; ``sae`` only names the hook.
    """
    activations = activations_name(dataset_name)
    with folder.locked():
        if None in (folder.read(activations), folder.read(PAIRED_FILE)):
            tokens = _write_activations(
                folder, dataset_name, config, sae, model, context
            )
            paired = _paired(folder, dataset_name, config, *tokens)
            with folder.write(PAIRED_FILE) as path:
                torch.save(paired, path)


def _write_activations(
    folder: ArtifactFolder,
    dataset_name: str,
    config: SparseProbingEvalConfig,
    sae: SAE[Any],
    model: LanguageModel,
    context: RunContext,
) -> list[dict[str, Tensor]]:
    """Let upstream write the activations; return the token ids of train and test texts."""
    tokens: list[dict[str, Tensor]] = []
    tokenize = dataset_utils.tokenize_data_dictionary

    def recorded(*args: Any, **kwargs: Any) -> dict[str, dict[str, Tensor]]:
        tokenized = tokenize(*args, **kwargs)
        tokens.append({name: t["input_ids"].cpu() for name, t in tokenized.items()})
        return tokenized

    def stop(*_: Any, **__: Any) -> None:
        raise _WarmError

    with folder.scratch() as scratch:
        with (
            patched(dataset_utils, "tokenize_data_dictionary", recorded),
            patched(activation_collection, "get_sae_meaned_activations", stop),
            data_source(context.data),
            contextlib.suppress(_WarmError),
        ):
            upstream_main.run_eval_single_dataset(
                dataset_name,
                config,
                sae,
                model,
                sae.cfg.hook_layer,
                sae.cfg.hook_name,
                context.device,
                str(scratch),
                save_activations=True,
            )
        made = activations_name(dataset_name)
        with folder.write(made) as path:
            (scratch / made).replace(path)
    return tokens


def _paired(
    folder: ArtifactFolder,
    dataset_name: str,
    config: SparseProbingEvalConfig,
    train: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
) -> Paired:
    paired = Paired(
        sizes={name: (len(train[name]), len(test[name])) for name in train},
        left_out=seen_in_training(train, test),
        llm={},
    )
    draws = draws_of(paired, dataset_name, config.random_seed)
    activations = load_activations(folder, dataset_name)
    mean: Callable[..., dict[str, Tensor]] = (
        activation_collection.create_meaned_model_activations
    )
    features = mean(activations["train"]), mean(activations["test"])
    correct = {
        f"llm_{'all' if k is None else f'top_{k}'}": score(
            *features, draws, k, seed=config.random_seed
        )
        for k in (None, *config.k_values)
    }
    paired["llm"] = to_tensors(correct)
    return paired


def seen_in_training(
    train: Mapping[str, Tensor], test: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """
    Return by class which test texts are also train texts, given token ids (texts, tokens).

    Texts that differ only after the end of the context are the same to the model.
    """
    seen = {row.numpy().tobytes() for ids in train.values() for row in ids}
    return {
        name: torch.tensor([row.numpy().tobytes() in seen for row in ids])
        for name, ids in test.items()
    }
