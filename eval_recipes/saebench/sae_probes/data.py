"""Texts of sae-probes, their activations, and splits without duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sae_probes import generate_model_activations as upstream_activations
from sae_probes.utils_data import (
    get_train_test_indices,
    get_yvals,
    read_dataset_df,
    read_numbered_dataset_df,
)
from torch import Tensor

from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.saebench.upstream import patched, preserved_model
from saereg_plugin.sources.models import LanguageModel

# importing sae-probes reads every set and would keep 100 MB of text
read_dataset_df.cache_clear()

MAX_ROWS = 5000
"""Rows upstream takes of a set (``get_xy_traintest``)."""

MAX_TRAIN = 1024
"""Rows upstream trains on at most; at least 100 are left to test on."""

MAX_TOKENS = 1024
"""Tokens upstream keeps of a text, from its end."""

_MAX_BATCH = 32

Rows = NDArray[np.int64]


class Split(NamedTuple):
    """Row numbers of a set, for training and for testing."""

    train: Rows
    test: Rows


class Texts(NamedTuple):
    """The rows of a set that upstream uses, with labels 0 and 1."""

    texts: list[str]
    labels: Rows


def read_texts(dataset: str) -> Texts:
    """Return the texts and labels of one of ``sae_probes.DATASETS``."""
    frame = read_numbered_dataset_df(dataset).iloc[:MAX_ROWS]
    return Texts(frame["prompt"].tolist(), get_yvals(dataset)[:MAX_ROWS])


def upstream_split(labels: Rows, *, seed: int) -> Split:
    """Return the split that upstream makes (``generate_sae_activations_normal``)."""
    train = min(len(labels) - 100, MAX_TRAIN)
    return Split(
        *get_train_test_indices(
            labels, train, len(labels) - train - 1, pos_ratio=0.5, seed=seed
        )
    )


def distinct_rows(texts: Sequence[str], labels: Rows) -> Rows:
    """
    Return the first row of each text; texts that carry both labels are left out.

    >>> distinct_rows(["a", "b", "a", "c", "c"], np.array([0, 1, 0, 0, 1])).tolist()
    [0, 1]
    """
    first: dict[str, int] = {}
    seen: dict[str, set[int]] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
        seen.setdefault(text, set()).add(int(labels[row]))
    kept = [row for text, row in first.items() if len(seen[text]) == 1]
    return np.array(kept, dtype=np.int64)


def deduplicated_split(texts: Sequence[str], labels: Rows, *, seed: int) -> Split:
    """
    Split as upstream does, over distinct texts, both classes equally often.

    Upstream's sets are drawn with replacement and split by row, so that a test text may
    also be a training text.
    """
    rows = distinct_rows(texts, labels)
    kept = labels[rows]
    total = 2 * int(min((kept == 0).sum(), (kept == 1).sum()))
    train = min(total - 100, MAX_TRAIN)
    split = get_train_test_indices(
        kept, train, total - train - 1, pos_ratio=0.5, seed=seed
    )
    return Split(rows[split[0]], rows[split[1]])


def rows_in_train(texts: Sequence[str], split: Split) -> int:
    """Return the number of test rows whose text is also in a training row."""
    trained = {texts[row] for row in split.train}
    return sum(texts[row] in trained for row in split.test)


def load_activations(folder: ArtifactFolder, dataset: str) -> Tensor:
    """Return a set's stored activations, (rows, d_in) float32."""
    return torch.load(folder.require(_name(dataset)), weights_only=True)


def _name(dataset: str) -> str:
    return f"{dataset}.pt"


def link_for_upstream(
    folder: ArtifactFolder,
    private: Path,
    model_name: str,
    datasets: Sequence[str],
    hook: str,
) -> None:
    """Link stored activations into a private folder where upstream looks for them."""
    for dataset in datasets:
        link = private / f"model_activations_{model_name}" / f"{dataset}_{hook}.pt"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder.require(_name(dataset)).absolute())


def ensure_activations(
    folder: ArtifactFolder,
    model: LanguageModel,
    datasets: Sequence[str],
    hook: str,
    *,
    memory_gib: float,
) -> None:
    """
    Fill a folder with the last token's activations of each text, (rows, d_in) float32.

    Upstream's own function computes them on distinct texts sorted by length, which avoids
    repeated texts and most padding.
    """
    for dataset in datasets:

        def make(path: Path, dataset: str = dataset) -> None:
            texts = read_numbered_dataset_df(dataset)["prompt"].tolist()
            with preserved_model(model):
                acts = last_token_activations(model, texts, hook, memory_gib=memory_gib)
            torch.save(acts, path)

        folder.ensure(_name(dataset), make)


def last_token_activations(
    model: LanguageModel, texts: Sequence[str], hook: str, *, memory_gib: float
) -> Tensor:
    """Return the activations at ``hook`` on the last token, (texts, d_in) float32."""
    tokenizer: Any = model.tokenizer
    distinct = list(dict.fromkeys(texts))
    lengths = [min(len(ids), MAX_TOKENS) for ids in tokenizer(distinct)["input_ids"]]
    order = np.argsort(lengths, kind="stable")
    parts: list[Tensor] = []
    with patched(upstream_activations, "tqdm", _NoBar):
        for batch in batches(
            [lengths[i] for i in order], _bytes_of(model), memory_gib * 2**30
        ):
            rows = upstream_activations._process_activations(
                model=model,
                texts=[distinct[i] for i in order[batch]],
                batch_size=_MAX_BATCH,
                max_seq_len=MAX_TOKENS,
                hook_names=[hook],
                max_layer=None,
                device=str(model.cfg.device),
            )[hook]
            parts.append(rows.float())
    row_of = {distinct[i]: row for row, i in enumerate(order)}
    return torch.cat(parts)[[row_of[text] for text in texts]].clone()


def batches(
    lengths: Sequence[int], bytes_of: Callable[[int], int], limit: float
) -> Iterator[slice]:
    """Yield consecutive slices of ascending ``lengths`` that fit into ``limit`` bytes."""
    start = 0
    while start < len(lengths):
        stop = start + 1
        while (
            stop < len(lengths)
            and stop - start < _MAX_BATCH
            and (stop + 1 - start) * bytes_of(lengths[stop]) <= limit
        ):
            stop += 1
        yield slice(start, stop)
        start = stop


def _bytes_of(model: LanguageModel) -> Callable[[int], int]:
    """Return a bound on the bytes of one text in a layer, by its number of tokens."""
    cfg = model.cfg
    width = 8 * cfg.d_model + 3 * (cfg.d_mlp or 4 * cfg.d_model)
    # Attention scores, their mask and their softmax.
    return lambda n: 4 * (3 * cfg.n_heads * n * n + width * n)


class _NoBar(list[int]):
    """Replacement of upstream's progress bar, which shows every batch."""

    def set_description(self, _text: str) -> None:
        """Do nothing."""
