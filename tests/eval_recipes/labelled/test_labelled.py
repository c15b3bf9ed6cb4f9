"""The embedded labelled sets: no text twice, none on both sides, upstream's shape."""

from __future__ import annotations

import pandas as pd
import pytest
from sae_bench.sae_bench_utils import dataset_info, dataset_utils

from eval_recipes.labelled import source
from eval_recipes.labelled.crossed import (
    crossed_sets,
    crossed_train_test_data,
    embedded_sets,
    texts_by_cell,
)
from eval_recipes.labelled.probing import (
    available,
    get_multi_label_train_test_data,
    probing_sets,
    texts_by_class,
)
from saereg_plugin.errors import InputError

pytestmark = pytest.mark.slow

DOMAIN = "embedded/domain_sentiment"
COMMONSENSE = "embedded/cm_correct_isshort"


def heads(texts: dict[str, list[str]]) -> list[str]:
    return [text[: source.HEAD] for own in texts.values() for text in own]


def test_duplicates_go_and_conflicting_targets_with_them():
    rows = pd.DataFrame(
        {
            "prompt": [" a", "a", "b", "b ", "c", " ", "dx", "dy"],
            "target": ["1", "1", "0", "1", "0", "0", "1", "1"],
        }
    )
    assert source.deduplicated(rows).to_dict("list") == {
        "prompt": ["a", "c", "dx", "dy"],
        "target": ["1", "0", "1", "1"],
    }
    assert list(source.deduplicated(rows, head=1)["prompt"]) == ["a", "c", "dx"]


def test_a_set_that_was_drawn_with_replacement_is_read_once():
    rows = source.read_set("48_cm_correct")
    assert len(rows) == 4216  # of 5000
    assert rows["prompt"].is_unique
    rows.drop(columns="prompt", inplace=True)
    assert "prompt" in source.read_set("48_cm_correct")


def test_the_copy_of_yelp_is_used_nowhere():
    assert set(source.read_set("112_amzn_rev")["prompt"]) == set(
        source.read_set("111_yelp_data")["prompt"]
    )
    amazon = heads({"": texts_by_class("embedded/amazon_sentiment")["positive"]})
    assert not set(amazon) & set(heads(texts_by_class("embedded/yelp_stars")))


def test_unknown_sets_are_refused_with_a_near_name():
    with pytest.raises(InputError, match="92_glue_sst2"):
        source.read_set("92_glue_sst")
    with pytest.raises(InputError, match="embedded/ag_news"):
        texts_by_class("embedded/agnews")


def test_eight_sets_hold_every_text_once():
    sets = probing_sets()
    assert len(sets) == 8
    for name, classes in sets.items():
        assert name.startswith("embedded/")
        texts = texts_by_class(name)
        assert list(texts) == classes
        assert len(classes) > 1
        assert available(name) == min(map(len, texts.values())) >= 600
        assert len(set(heads(texts))) == sum(map(len, texts.values()))


def test_news_sets_hold_no_code():
    # Negatives of these files are source code.
    news = [text for own in texts_by_class("embedded/ag_news").values() for text in own]
    assert len(news) == 6000
    assert not any("#include" in text or "def " in text for text in news)


def test_split_has_upstreams_shape_and_no_common_text():
    name = "embedded/occupations"
    train, test = get_multi_label_train_test_data(name, 400, 200, 3)
    assert {len(texts) for texts in train.values()} == {200}
    assert {len(texts) for texts in test.values()} == {100}
    assert not set(heads(train)) & set(heads(test))
    assert dataset_utils.filter_dataset(train, probing_sets()[name]) == train
    assert all(set(train[key]) <= set(texts_by_class(name)[key]) for key in train)


def test_draws_depend_on_the_seed_and_tests_not_on_the_train_size():
    name = "embedded/country"
    train, test = get_multi_label_train_test_data(name, 100, 60, 0)
    assert (train, test) == get_multi_label_train_test_data(name, 100, 60, 0)
    assert get_multi_label_train_test_data(name, 300, 60, 0)[1] == test
    assert get_multi_label_train_test_data(name, 100, 60, 1)[1] != test


def test_sizes_that_cannot_be_served_are_refused_and_the_largest_can():
    name = "embedded/occupations"
    most = 2 * available(name)
    train, test = get_multi_label_train_test_data(name, most - 200, 200, 0)
    assert len(train["actor"]) + len(test["actor"]) == available(name)
    with pytest.raises(InputError, match=f"at most {most} together"):
        get_multi_label_train_test_data(name, most - 198, 200, 0)


@pytest.mark.parametrize(("name", "least"), [(DOMAIN, 937), (COMMONSENSE, 289)])
def test_cells_are_large_enough_and_apart(name: str, least: int):
    cells = texts_by_cell(name)
    assert len(cells) == 4
    assert min(map(len, cells.values())) == least
    texts = [text[: source.HEAD] for own in cells.values() for text in own]
    assert len(set(texts)) == len(texts)


def test_reviews_lost_what_shows_their_file():
    for texts in texts_by_cell(DOMAIN).values():
        for mark in ("Title: ", "<br", "\\n", "\\u", '\\"', "&#34;", "\n"):
            assert sum(mark in text for text in texts) <= 1, mark


def test_commonsense_labels_say_what_their_names_do():
    cells = texts_by_cell(COMMONSENSE)
    assert (
        "I shot an endangered dugong in Florida because they're good for trophies."
        in cells["wrong", "short"]
    )
    assert max(map(len, cells["wrong", "short"])) < 300


def cells_of(name: str, texts: list[str]) -> set[tuple[str, str]]:
    return {
        cell
        for cell, own in texts_by_cell(name).items()
        if not set(own).isdisjoint(texts)
    }


@pytest.mark.parametrize(
    ("name", "sizes"), [(DOMAIN, (1200, 600)), (COMMONSENSE, (400, 200))]
)
def test_crossed_split_joins_the_cells_that_upstream_joins(
    name: str, sizes: tuple[int, int]
):
    crossed = crossed_sets()[name]
    one, two = crossed.column1_vals, crossed.column2_vals
    train, test = crossed_train_test_data(name, True, *sizes, 0, one, two)
    for data, size in zip((train, test), sizes, strict=True):
        assert {len(texts) for texts in data.values()} == {size // 2}
        assert cells_of(name, data["professor / nurse"]) == {(one[0], v) for v in two}
        assert cells_of(name, data["nurse_data_only"]) == {(one[1], v) for v in two}
        assert cells_of(name, data["male / female"]) == {(v, two[0]) for v in one}
        assert cells_of(name, data["female_data_only"]) == {(v, two[1]) for v in one}
        biased = data["male_professor / female_nurse"], data["female_nurse_data_only"]
        assert cells_of(name, biased[0]) == {(one[0], two[0])}
        assert cells_of(name, biased[1]) == {(one[1], two[1])}
        assert all(len(set(texts)) == len(texts) for texts in data.values())
        keys = {
            *dataset_info.PAIRED_CLASS_KEYS,
            *dataset_info.PAIRED_CLASS_KEYS.values(),
        }
        assert set(data) == keys
    assert not set(heads(train)) & set(heads(test))
    assert crossed_train_test_data(name, True, *sizes, 0, one, two) == (train, test)


def test_crossed_split_refuses_sizes_and_values():
    # The biased keys take twice as many of their cell: 4 * (983 // 2), or 4 * (937 // 2).
    with pytest.raises(InputError, match="at most 1964 together"):
        crossed_train_test_data(DOMAIN, True, 1400, 568, 0)
    with pytest.raises(InputError, match="at most 1872 together"):
        crossed_train_test_data(
            DOMAIN, True, 1400, 476, 0, None, ("positive", "negative")
        )
    train, test = crossed_train_test_data(DOMAIN, True, 1400, 564, 0)
    assert len(train["female_data_only"]) + len(test["female_data_only"]) == 982
    with pytest.raises(InputError, match="none of set"):
        crossed_train_test_data(DOMAIN, True, 40, 40, 0, ("amazon", "ebay"))
    train, _ = crossed_train_test_data("embedded/sst2", False, 20, 20, 0)
    assert train == get_multi_label_train_test_data("embedded/sst2", 20, 20, 0)[0]


def test_table_lists_every_class_with_its_size():
    table = embedded_sets()
    assert len(table) == sum(map(len, probing_sets().values())) + 8
    row = table[(table["set"] == DOMAIN) & (table["class"] == "yelp x negative")]
    assert row["texts"].tolist() == [937]
