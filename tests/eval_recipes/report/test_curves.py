"""Training curves of the report page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval_recipes.report.curves import even_indices, training_curves


def write(folder: Path, sae_id: str, records: list[dict[str, Any]]) -> None:
    path = folder / "records" / f"{sae_id}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def records(count: int) -> list[dict[str, Any]]:
    return [
        {"step": n + 1, "tokens": n, "loss": 1 / (n + 1), "l0": 8.0, "alive": n}
        for n in range(count)
    ]


def test_each_metric_has_a_curve_per_sae(tmp_path: Path) -> None:
    write(tmp_path, "b-seed0", records(3))
    write(tmp_path, "a-seed0", records(2))
    curves = training_curves(tmp_path)
    assert list(curves) == ["loss", "alive", "l0"]
    assert curves["loss"] == [
        {"sae": "a-seed0", "x": [1, 2], "y": [1, 0.5]},
        {"sae": "b-seed0", "x": [1, 2, 3], "y": [1, 0.5, pytest.approx(1 / 3)]},
    ]
    json.dumps(curves, allow_nan=False)


def test_a_long_curve_is_thinned_to_its_ends_and_even_steps(tmp_path: Path) -> None:
    write(tmp_path, "a", records(1001))
    (curve,) = training_curves(tmp_path)["alive"]
    assert len(curve["x"]) == 200
    assert (curve["x"][0], curve["x"][-1]) == (1, 1001)
    gaps = {after - before for before, after in zip(curve["x"], curve["x"][1:])}
    assert gaps == {5, 6}
    assert curve["y"] == [x - 1 for x in curve["x"]]


def test_a_value_that_was_not_finite_is_a_gap_and_a_stop_no_point(
    tmp_path: Path,
) -> None:
    broken = {"step": 4, "tokens": 3, "loss": None, "l0": 8.0, "alive": 1}
    stopped = {"step": 5, "event": "stopped", "reason": "loss"}
    write(tmp_path, "a", [*records(3), broken, stopped])
    (curve,) = training_curves(tmp_path)["loss"]
    assert curve["x"] == [1, 2, 3, 4]
    assert curve["y"][-1] is None


def test_a_release_without_records_has_no_curves(tmp_path: Path) -> None:
    assert training_curves(tmp_path) == {}


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (0, 3, []),
        (2, 3, [0, 1]),
        (5, 3, [0, 2, 4]),
        (5, 2, [0, 4]),
        (5, 1, [4]),
        (5, 0, []),
    ],
)
def test_indices_are_even(count: int, most: int, expected: list[int]) -> None:
    assert even_indices(count, most) == expected
