"""Embedded sets of several classes, for sparse probing and TPP."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np
import pandas as pd

from eval_recipes.labelled.source import (
    HEAD,
    PREFIX,
    deduplicated,
    read_set,
    strip_template,
)
from saereg_plugin.errors import InputError, suggest

Texts = dict[str, list[str]]


@dataclass(frozen=True)
class ProbingSet:
    """
    Recipe of one set from sae-probes' files.

    ``classes`` has the file and the target of each class.
    """

    summary: str
    classes: Mapping[str, tuple[str, str]]
    clean: Callable[[str], str] | None = None


def _targets(file: str, **classes: str) -> Mapping[str, tuple[str, str]]:
    """Return classes of one file, given the target of each."""
    return {name: (file, target) for name, target in classes.items()}


def _positives(**files: str) -> Mapping[str, tuple[str, str]]:
    """Return classes that are each the positives of their own file."""
    return {name: (file, "1") for name, file in files.items()}


_SETS = MappingProxyType(
    {
        PREFIX + name: probing_set
        for name, probing_set in {
            "ag_news": ProbingSet(
                "topic of a news item",
                # Their negatives are source code.
                _positives(
                    world="161_agnews_0", sports="162_agnews_1", business="163_agnews_2"
                ),
            ),
            "occupations": ProbingSet(
                "occupation of the person that a web page speaks of",
                _positives(
                    journalist="59_wikidata_occupation_isjournalist",
                    athlete="60_wikidata_occupation_isathlete",
                    actor="61_wikidata_occupation_isactor",
                    politician="62_wikidata_occupation_ispolitician",
                    singer="63_wikidata_occupation_issinger",
                    researcher="64_wikidata_occupation_isresearcher",
                ),
            ),
            "code": ProbingSet(
                "language of source code",
                _positives(
                    C="158_code_C", Python="159_code_Python", HTML="160_code_HTML"
                ),
            ),
            "amazon_sentiment": ProbingSet(
                "whether an Amazon review gives five stars or one",
                _targets("157_amazon_5star", negative="0", positive="1"),
                strip_template,
            ),
            "yelp_stars": ProbingSet(
                "stars of a Yelp review",
                _targets(
                    "111_yelp_data", **{f"{n + 1}_stars": str(n) for n in range(5)}
                ),
                strip_template,
            ),
            "sst2": ProbingSet(
                "sentiment of a phrase from a film review",
                _targets("92_glue_sst2", negative="0", positive="1"),
            ),
            "emotion": ProbingSet(
                "emotion of a tweet",
                _targets(
                    "102_twt_emotion",
                    happiness="happiness",
                    sadness="sadness",
                    surprise="surprise",
                    worry="worry",
                ),
            ),
            "country": ProbingSet(
                "country of a place, given its name",
                _targets(
                    "17_world_country",
                    Australia="Australia",
                    India="India",
                    Italy="Italy",
                    United_Kingdom="United_Kingdom",
                    United_States="United_States",
                ),
            ),
        }.items()
    }
)


def probing_sets() -> Mapping[str, list[str]]:
    """
    Return the classes of each of the eight sets, by its name, ``embedded/<name>``.

    It has the form of upstream's ``dataset_info.chosen_classes_per_dataset``.
    """
    return {name: list(probing_set.classes) for name, probing_set in _SETS.items()}


def summary(dataset_name: str) -> str:
    """
    Return the property that a set's classes tell apart.

    Raises:
        InputError: if there is no such set.
    """
    return _set(dataset_name).summary


def texts_by_class(dataset_name: str) -> Texts:
    """
    Return the distinct texts of a set by class.

    Raises:
        InputError: if there is no such set.
    """
    return {name: list(texts) for name, texts in _texts(dataset_name).items()}


@functools.lru_cache(maxsize=len(_SETS))
def _texts(dataset_name: str) -> Mapping[str, tuple[str, ...]]:
    probing_set = _set(dataset_name)
    parts: list[pd.DataFrame] = []
    for name, (file, target) in probing_set.classes.items():
        rows = read_set(file)
        chosen = rows.loc[rows["target"] == target]
        parts.append(cast("pd.DataFrame", chosen.assign(target=name)))
    rows = pd.concat(parts, ignore_index=True)
    if probing_set.clean is not None:
        rows = rows.assign(prompt=rows["prompt"].map(probing_set.clean))
    # two files may share a text, and cleaning may make two texts equal
    rows = deduplicated(rows, HEAD)
    return {
        name: tuple(rows.loc[rows["target"] == name, "prompt"])
        for name in probing_set.classes
    }


def available(dataset_name: str) -> int:
    """
    Return the number of texts in a set's smallest class.

    Half of train and test size must fit: upstream's sizes count positives and negatives.

    Raises:
        InputError: if there is no such set.
    """
    return min(map(len, _texts(dataset_name).values()))


def get_multi_label_train_test_data(
    dataset_name: str, train_set_size: int, test_set_size: int, random_seed: int
) -> tuple[Texts, Texts]:
    """
    Return train and test texts by class, as upstream's function of this name does.

    A class gets half of each size, since its probe also sees as many texts of other classes.
    No text is in both; the test texts do not depend on the train size.

    Raises:
        InputError: if there is no such set, or it has too few texts.
    """
    n_train, n_test = train_set_size // 2, test_set_size // 2
    check_sizes(dataset_name, train_set_size, test_set_size)
    train: Texts = {}
    test: Texts = {}
    for index, (name, texts) in enumerate(_texts(dataset_name).items()):
        order = np.random.default_rng([random_seed, index]).permutation(len(texts))
        drawn = [texts[i] for i in order[: n_test + n_train]]
        test[name], train[name] = drawn[:n_test], drawn[n_test:]
    return train, test


def check_sizes(dataset_name: str, train_set_size: int, test_set_size: int) -> None:
    """
    Refuse sizes that a set cannot serve.

    Raises:
        InputError: naming the set and its number of texts.
    """
    limit = 2 * available(dataset_name)
    if min(train_set_size, test_set_size) < 2:
        raise InputError(
            f"A train size of {train_set_size} and a test size of {test_set_size} leave a "
            "class without a text; expected 2 or more of each."
        )
    if train_set_size // 2 + test_set_size // 2 > limit // 2:
        raise InputError(
            f"Set {dataset_name!r} cannot serve {train_set_size} train and {test_set_size} "
            f"test texts; expected at most {limit} together (its smallest class has "
            f"{limit // 2} texts, half of each size). Choose smaller sizes."
        )


def _set(dataset_name: str) -> ProbingSet:
    if dataset_name not in _SETS:
        raise InputError(
            f"Unknown embedded set {dataset_name!r}. {suggest(dataset_name, _SETS)}"
        )
    return _SETS[dataset_name]
