"""Sources by their settings, before the weights of a model are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from saereg_plugin.activations.opening import describe_source
from saereg_plugin.errors import InputError


def described(folder: Path, **fields: Any) -> Any:
    Image.new("RGB", (8, 8)).save(folder / "black.png")
    given = {"kind": "module", "data": str(folder), **fields}
    return describe_source(given, split="all")


def test_points_with_different_numbers_of_rows_are_refused_without_weights(
    tmp_path: Path,
) -> None:
    points = ["features.0", "features.3"]
    fields = {"model": "squeezenet", "point": points, "image_size": 64}
    with pytest.raises(InputError, match="'features.0' and 'features.3' give 961 and"):
        described(tmp_path, rows="patches", **fields)
    facts = described(tmp_path, rows="mean", **fields)
    assert (list(facts.points), facts.rows_per_input) == (points, 1)


def test_maps_of_swin_have_their_channels_last(tmp_path: Path) -> None:
    name = "timm:swin_tiny_patch4_window7_224"
    facts = described(tmp_path, model=name, point="layers.0", rows="patches")
    assert (facts.points, facts.rows_per_input) == ({"layers.0": 96}, 56 * 56)
