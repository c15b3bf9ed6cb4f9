"""The order as a whole: planted labels, files, and seeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from eval_recipes.data_order import ordering
from eval_recipes.data_order.options import OrderOptions
from eval_recipes.data_order.ordering import DataOrder, order_texts
from eval_recipes.data_order.texts import Labels
from eval_recipes.report.figures.finding import read_further
from saereg_plugin.errors import InputError
from tests.eval_recipes.data_order.planted import (
    PLANTED,
    planted_features,
    planted_labels,
    planted_texts,
)


def ordered(*, known: int | None = 80, **given: Any) -> DataOrder:
    """The order of planted texts, of which the first ones are labelled."""
    texts = planted_texts()
    features = planted_features(texts)
    labels = Labels.none(len(texts))
    if known is not None:
        full = planted_labels(features)
        labels.difficulty[:known] = full.difficulty[:known]
        labels.quality[:known] = full.quality[:known]
    options = OrderOptions(
        **{"permutations": 19, "batch_size": 8, "clusters": 3, **given}
    )
    return order_texts(texts, labels, features, options)


@pytest.fixture(scope="module")
def found() -> DataOrder:
    return ordered()


def test_texts_go_from_easy_to_hard_and_bad_ones_are_left_out(found: DataOrder) -> None:
    frame = found.frame
    assert sorted(frame["id"]) == sorted(planted_texts().ids)
    kept = frame.loc[frame["kept"]]
    assert kept["position"].tolist() == list(range(len(kept)))
    assert (kept["quality_predicted"] >= 0.5).all()
    left = frame.loc[~frame["kept"]]
    assert (left["quality_predicted"] < 0.5).all() and len(left) > 20
    assert left["position"].isna().all() and left["batch"].isna().all()
    truth = planted_labels(planted_features(planted_texts()))
    of_id = dict(zip(planted_texts().ids, truth.difficulty, strict=True))
    # also of texts whose labels nobody gave
    own = kept.loc[kept["difficulty"].isna()]
    told = own["difficulty_predicted"].to_numpy(float)
    assert np.corrcoef(told, [of_id[one] for one in own["id"]])[0, 1] > 0.9
    stages = kept.groupby("stage")["difficulty_predicted"]
    assert (stages.max().to_numpy()[:-1] <= stages.min().to_numpy()[1:]).all()
    assert next(iter(found.latents["difficulty"])) == PLANTED


def test_a_labelled_text_is_ordered_by_a_probe_that_has_not_seen_it(
    found: DataOrder,
) -> None:
    rows = found.frame.dropna(subset=["difficulty"])
    told, known = rows["difficulty_predicted"], rows["difficulty"]
    # a text's own label would be told exactly
    assert (told - known).abs().max() > 1e-3


def test_the_same_seed_gives_the_same_order(found: DataOrder) -> None:
    pd.testing.assert_frame_equal(ordered().frame, found.frame)
    other = ordered(seed=1, permutations=0)
    assert other.frame["id"].tolist() != found.frame["id"].tolist()
    assert all(one.p_value is None for one in other.scores)


def test_without_labels_there_are_clusters_and_one_stage() -> None:
    found = ordered(known=None)
    assert {one.target for one in found.scores} == {"clusters"}
    assert found.frame["kept"].all() and set(found.frame["stage"]) == {0}
    assert "difficulty_predicted" not in found.frame
    assert set(found.frame["cluster"]) == {0, 1, 2}
    assert found.latents == {}


def test_sentences_say_where_the_sae_wins_and_where_it_is_chance(
    found: DataOrder,
) -> None:
    said = "\n".join(found.verdicts)
    assert "difficulty: the SAE does better than tf-idf" in said
    assert "quality: the SAE does better than raw activations" in said
    assert "clusters: no difference from" in said
    by_noise = ordered(score_by="raw", permutations=0)
    assert by_noise.frame["id"].tolist() != found.frame["id"].tolist()


def test_other_features_may_win_and_chance_is_called_chance() -> None:
    texts = planted_texts()
    features = planted_features(texts)
    labels = Labels(features.raw[:, 0], np.full(len(texts), np.nan))
    options = OrderOptions(permutations=19, clusters=2)
    said = "\n".join(order_texts(texts, labels, features, options).verdicts)
    assert "difficulty: the SAE does worse than raw activations" in said
    assert (
        "not shown to be better than chance: p = " in said
        and "Do not order by it." in said
    )


def test_an_interval_with_the_score_of_one_answer_is_no_success(
    found: DataOrder,
) -> None:
    own = next(one for one in found.scores if one.target == "difficulty")
    wide = replace(own, held_out=own.held_out._replace(low=-0.1))
    said = "\n".join(found.verdicts)
    assert "difficulty: the SAE reaches" in said
    assert "its interval has 0, the score" not in said.split("difficulty")[1]
    rest = [wide if one == own else one for one in found.scores]
    said = "\n".join(replace(found, scores=rest).verdicts)
    assert "better than chance: its interval has 0, the score of one answer" in said


def test_files_are_whole(found: DataOrder, tmp_path: Path) -> None:
    path = found.write(tmp_path / "out", texts="texts.jsonl")
    pd.testing.assert_frame_equal(pd.read_parquet(path), found.frame, check_dtype=False)
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"saereg"])["batch_size"] == 8
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert record["settings"]["texts"] == "texts.jsonl"
    assert record["order"]["rows"] == 120
    assert record["verdicts"] == found.verdicts
    assert len(record["scores"]) == 2 * 4 + 2 * 4 + 3
    first = record["scores"][0]["held_out"]
    assert set(first) == {"value", "low", "high", "n", "reason"}
    assert record["latents"]["difficulty"][0]["latent"] == PLANTED
    (on_page,) = read_further(tmp_path / "out").found
    assert len(on_page.part.tables[0].rows) == len(record["scores"])
    assert on_page.part.sentences == found.verdicts


def test_a_failed_write_leaves_the_earlier_file(
    found: DataOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = found.write(tmp_path)
    before = path.read_bytes()

    def fail(_table: Any, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(ordering.pq, "write_table", fail)
    with pytest.raises(OSError, match="no space"):
        found.write(tmp_path)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "order.parquet",
        "scores.json",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mixing": 1.5}, "mixing=1.5"),
        ({"mixing": float("nan")}, "mixing=nan"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"clusters": 1}, "clusters"),
        ({"pool": "median"}, "pool='median'"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_unusable_options_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        OrderOptions(**given)
