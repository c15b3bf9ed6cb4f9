"""Metrics become four fields each, families four for each number."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import TypeAdapter, ValidationError
from sae_bench.evals.base_eval_output import BaseMetrics

from eval_recipes.results.metrics import flat, metric, metric_class, value
from eval_recipes.statistics.interval import Interval


@metric_class
class Planted(BaseMetrics):
    """One metric, one family and one single value."""

    plain = metric("Plain", "Of all", nullable=False)
    top_N_accuracy = metric(
        "Top {n}", "By {n}", over=(1, 5), headline=5, resampled="", missing=(None, 0)
    )
    top_N_auc = metric("AUC {n}", "By {n}", over=(1, 5), missing=(None, None))
    plain_n: int = value("Own", "Written in the class")
    tokens: int = value("Tokens", "Single")


def test_families_take_turns_for_each_number() -> None:
    names = [field.name for field in dataclasses.fields(Planted)]  # pyright: ignore[reportArgumentType]
    assert names[:3] == ["plain", "plain_ci_low", "plain_ci_high"]
    assert [name for name in names if name.endswith(("accuracy", "auc"))] == [
        *("top_1_accuracy", "top_1_auc", "top_5_accuracy", "top_5_auc")
    ]
    assert len(names) == 3 + 4 * 4 + 2
    assert not hasattr(Planted, "top_N_accuracy")


def test_missing_figures_have_defaults_and_others_are_required() -> None:
    given = flat({"plain": Interval(0.5, None, None, 3)})
    made = Planted(**given, tokens=7)
    assert (made.plain_n, made.top_1_accuracy_n, made.top_5_auc_n) == (3, 0, None)
    with pytest.raises(ValidationError):
        Planted(tokens=7)


def test_titles_say_number_and_end() -> None:
    properties = TypeAdapter(Planted).json_schema()["properties"]
    assert properties["plain_ci_low"]["title"] == "Plain (95 % Interval, Low)"
    assert properties["top_5_accuracy_ci_high"]["title"] == "Top 5 (high)"
    assert properties["plain_n"]["title"] == "Own"
    shown = [
        name for name, about in properties.items() if "ui_default_display" in about
    ]
    assert shown == ["top_5_accuracy"]
