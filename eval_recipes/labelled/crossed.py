"""Embedded sets with two crossed attributes, for SCR."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from eval_recipes.labelled.probing import (
    Texts,
    get_multi_label_train_test_data,
    probing_sets,
    summary,
    texts_by_class,
)
from eval_recipes.labelled.source import (
    HEAD,
    PREFIX,
    deduplicated,
    read_set,
    strip_template,
)
from saereg_plugin.errors import InputError, suggest

Pair = tuple[str, str]


@dataclass(frozen=True)
class CrossedSet:
    """
    A set whose texts have two attributes of two values each.

    ``column1_vals`` and ``column2_vals`` are upstream's names: the attribute to keep and the
    one spuriously tied to it, each with its positive value first.
    """

    summary: str
    column1_vals: Pair
    column2_vals: Pair


_SETS = MappingProxyType(
    {
        f"{PREFIX}domain_sentiment": CrossedSet(
            "shop or restaurant review, bad or good",
            ("amazon", "yelp"),
            ("negative", "positive"),
        ),
        f"{PREFIX}cm_correct_isshort": CrossedSet(
            "deed that is wrong or acceptable, told at length or in a sentence",
            # in this order SCR draws twice as much from the larger cells
            ("wrong", "acceptable"),
            ("long", "short"),
        ),
    }
)


def crossed_sets() -> Mapping[str, CrossedSet]:
    """Return the two sets by name, ``embedded/<name>``."""
    return _SETS


def texts_by_cell(dataset_name: str) -> dict[Pair, list[str]]:
    """
    Return the distinct texts of a set by (column 1 value, column 2 value).

    Raises:
        InputError: if there is no such set.
    """
    return {cell: list(texts) for cell, texts in _cells(dataset_name).items()}


@functools.lru_cache(maxsize=len(_SETS))
def _cells(dataset_name: str) -> Mapping[Pair, tuple[str, ...]]:
    crossed = _set(dataset_name)
    build = {
        f"{PREFIX}domain_sentiment": _domain_sentiment,
        f"{PREFIX}cm_correct_isshort": _cm_correct_isshort,
    }
    rows = build[dataset_name]()
    return {
        (one, two): tuple(
            rows.loc[(rows["column1"] == one) & (rows["column2"] == two), "prompt"]
        )
        for one in crossed.column1_vals
        for two in crossed.column2_vals
    }


def _domain_sentiment() -> pd.DataFrame:
    """Lowest and highest stars of both files, columns ``prompt, column1, column2``."""
    names = {
        ("157_amazon_5star", "0"): ("amazon", "negative"),
        ("157_amazon_5star", "1"): ("amazon", "positive"),
        ("111_yelp_data", "0"): ("yelp", "negative"),
        ("111_yelp_data", "4"): ("yelp", "positive"),
    }
    parts: list[pd.DataFrame] = []
    for (file, target), (domain, sentiment) in names.items():
        rows = read_set(file)
        texts = rows.loc[rows["target"] == target, "prompt"].map(strip_template)
        parts.append(pd.DataFrame({"prompt": texts, "target": f"{domain}/{sentiment}"}))
    rows = deduplicated(pd.concat(parts, ignore_index=True), HEAD)
    columns = rows["target"].str.split("/", expand=True)
    return rows.assign(column1=columns[0], column2=columns[1])


def _cm_correct_isshort() -> pd.DataFrame:
    """Texts that both files label, columns ``prompt, column1, column2``."""
    correct = deduplicated(read_set("48_cm_correct"), HEAD)
    rows = correct.merge(read_set("49_cm_isshort"), on="prompt")
    return rows.assign(
        # ETHICS (arXiv 2008.02275): 1 says that the deed is wrong.
        column1=np.where(rows["target_x"] == "1", "wrong", "acceptable"),
        column2=np.where(rows["target_y"] == "True", "short", "long"),
    )


def crossed_train_test_data(
    dataset_name: str,
    spurious_corr: bool,
    train_set_size: int,
    test_set_size: int,
    random_seed: int,
    column1_vals: Pair | None = None,
    column2_vals: Pair | None = None,
) -> tuple[Texts, Texts]:
    """
    Return train and test texts as upstream's ``dataset_creation.get_train_test_data`` does.

    The keys are upstream's six fixed names for any attributes. With ``n = size // 4``, each
    key has ``2 n`` texts: ``n`` of each of its two cells, or ``2 n`` of the one cell of a
    biased key. Train and test share no text.

    Args:
        dataset_name: a crossed set, or, without ``spurious_corr``, a probing set.
        spurious_corr: whether to return two attributes (SCR) or classes (TPP).
        train_set_size: train texts of two paired keys.
        test_set_size: test texts of two paired keys.
        random_seed: seed of draws and order.
        column1_vals: values of the attribute to keep; None for the set's own order.
        column2_vals: values of the spurious attribute; None for the set's own order.

    Raises:
        InputError: if there is no such set or value, or too few texts.
    """
    if not spurious_corr:
        return get_multi_label_train_test_data(
            dataset_name, train_set_size, test_set_size, random_seed
        )
    crossed = _set(dataset_name)
    one = _values(dataset_name, crossed.column1_vals, column1_vals)
    two = _values(dataset_name, crossed.column2_vals, column2_vals)
    check_sizes(dataset_name, train_set_size, test_set_size, one, two)
    n_train, n_test = train_set_size // 4, test_set_size // 4
    train: dict[Pair, list[str]] = {}
    test: dict[Pair, list[str]] = {}
    for index, cell in enumerate(sorted(_cells(dataset_name))):
        texts = _cells(dataset_name)[cell]
        share = _share(cell, one, two)
        order = np.random.default_rng([random_seed, index]).permutation(len(texts))
        drawn = [texts[i] for i in order[: share * (n_test + n_train)]]
        test[cell], train[cell] = drawn[: share * n_test], drawn[share * n_test :]
    return (
        _joined(train, n_train, one, two, random_seed),
        _joined(test, n_test, one, two, random_seed),
    )


def check_sizes(
    dataset_name: str,
    train_set_size: int,
    test_set_size: int,
    column1_vals: Pair | None = None,
    column2_vals: Pair | None = None,
) -> None:
    """
    Refuse sizes that a crossed set cannot serve.

    Raises:
        InputError: names the set and the largest sum of sizes.
    """
    crossed = _set(dataset_name)
    one = _values(dataset_name, crossed.column1_vals, column1_vals)
    two = _values(dataset_name, crossed.column2_vals, column2_vals)
    if min(train_set_size, test_set_size) < 4:
        raise InputError(
            f"A train size of {train_set_size} and a test size of {test_set_size} leave a "
            "cell without a text; expected 4 or more of each."
        )
    n = min(
        len(texts) // _share(cell, one, two)
        for cell, texts in _cells(dataset_name).items()
    )
    if train_set_size // 4 + test_set_size // 4 > n:
        raise InputError(
            f"Set {dataset_name!r} cannot serve {train_set_size} train and {test_set_size} "
            f"test texts; expected at most {4 * n} together. Choose smaller sizes."
        )


def _share(cell: Pair, one: Pair, two: Pair) -> int:
    """Return how many times ``size // 4`` texts of a cell are needed."""
    return 2 if cell in ((one[0], two[0]), (one[1], two[1])) else 1


def _joined(
    cells: Mapping[Pair, list[str]], n: int, one: Pair, two: Pair, seed: int
) -> Texts:
    """Join cells into upstream's keys, as its ``get_spurious_corr_data`` does."""
    pos_pos, neg_neg = cells[one[0], two[0]], cells[one[1], two[1]]
    # upstream names column 2 first
    pos_neg, neg_pos = cells[one[1], two[0]], cells[one[0], two[1]]
    joined = {
        "male / female": pos_pos[:n] + pos_neg[:n],
        "female_data_only": neg_pos[:n] + neg_neg[:n],
        "professor / nurse": pos_pos[:n] + neg_pos[:n],
        "nurse_data_only": pos_neg[:n] + neg_neg[:n],
        "male_professor / female_nurse": pos_pos[: 2 * n],
        "female_nurse_data_only": neg_neg[: 2 * n],
    }
    rng = np.random.default_rng(seed)
    for texts in joined.values():
        rng.shuffle(texts)
    return joined


def _values(dataset_name: str, known: Pair, given: Pair | None) -> Pair:
    if given is None:
        return known
    if sorted(given) != sorted(known):
        raise InputError(
            f"Values {tuple(given)} are none of set {dataset_name!r}; expected {known} in "
            "either order."
        )
    return (given[0], given[1])


def _set(dataset_name: str) -> CrossedSet:
    if dataset_name not in _SETS:
        raise InputError(
            f"Unknown crossed set {dataset_name!r}. {suggest(dataset_name, _SETS)}"
        )
    return _SETS[dataset_name]


def embedded_sets() -> pd.DataFrame:
    """
    Return one row per class (or cell of two crossed attributes), in a fixed order.

    Columns: ``set`` (its name), ``tells`` (property that the classes tell apart), ``class`` and
    ``texts`` (distinct texts that may be drawn).
    """
    rows = [
        (name, summary(name), class_name, len(texts))
        for name in probing_sets()
        for class_name, texts in texts_by_class(name).items()
    ]
    rows += [
        (name, crossed.summary, " x ".join(cell), len(texts))
        for name, crossed in crossed_sets().items()
        for cell, texts in texts_by_cell(name).items()
    ]
    return pd.DataFrame(rows, columns=pd.Index(["set", "tells", "class", "texts"]))
