"""Groups compared at equal width and at equal explained variance, and the pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata

from eval_recipes.context import RunContext
from eval_recipes.cross_seed.interpolation import (
    Estimate,
    Point,
    at_explained_variance,
)
from eval_recipes.cross_seed.main import run
from eval_recipes.cross_seed.plots import plot_cross_seed
from eval_recipes.cross_seed.roles import matched_to
from eval_recipes.cross_seed.width_control import (
    Comparison,
    compare_widths,
    comparison_table,
    write_comparisons,
)
from eval_recipes.result_files import read_result
from saereg_plugin.errors import InputError
from saereg_plugin.releases import Entry, Release, register_release, write_release
from tests.eval_recipes.test_cross_seed import Planted, heldout, seeds

FAMILY = [
    Point(0.0, Estimate(0.8, 0.01), Estimate(0.10, 0.02)),
    Point(1e-5, Estimate(0.7, 0.01), Estimate(0.20, 0.02)),
    Point(1e-4, Estimate(0.5, 0.01), Estimate(0.60, 0.02)),
]


def test_interpolation_by_hand() -> None:
    found = at_explained_variance(FAMILY[::-1], Estimate(0.6, 0.03))
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.4)
    assert found.between == (1e-5, 1e-4)
    # slope -2, weights 1/2: (.02^2 + (2 * .01)^2) / 2 + (2 * .03)^2
    variance = (0.02**2 + 0.02**2) / 2 + 0.06**2
    assert found.estimate.error == pytest.approx(variance**0.5)


@pytest.mark.parametrize("point", FAMILY)
def test_a_point_of_the_family_is_itself(point: Point) -> None:
    found = at_explained_variance(FAMILY, Estimate(point.explained_variance.value))
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(point.metric.value)
    assert found.estimate.error is None


@given(
    a=st.floats(-3, 3),
    b=st.floats(-3, 3),
    values=st.lists(
        st.floats(0.1, 0.9), min_size=2, max_size=6, unique_by=lambda v: round(v, 3)
    ),
    share=st.floats(0, 1),
)
@settings(deadline=None, max_examples=60)
def test_a_linear_relation_is_recovered(
    a: float, b: float, values: list[float], share: float
) -> None:
    ordered = sorted(values, reverse=True)
    points = [
        Point(float(i), Estimate(value), Estimate(a + b * value))
        for i, value in enumerate(ordered)
    ]
    target = ordered[-1] + share * (ordered[0] - ordered[-1])
    found = at_explained_variance(points, Estimate(min(target, ordered[0])))
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(a + b * target, abs=1e-6)


def test_reasons_for_no_value() -> None:
    outside = at_explained_variance(FAMILY, Estimate(0.85))
    assert outside.estimate is None
    assert outside.reason is not None and "0.5000 to 0.8000" in outside.reason
    bent = [*FAMILY, Point(1e-3, Estimate(0.75), Estimate(0.9))]
    twice = at_explained_variance(bent, Estimate(0.72))
    assert twice.estimate is None
    assert twice.reason is not None and "more than once" in twice.reason
    assert at_explained_variance(FAMILY[:1], Estimate(0.8)).reason is not None
    with pytest.raises(ValueError, match="different coefficients"):
        at_explained_variance([FAMILY[0], FAMILY[0]], Estimate(0.8))


@dataclass(frozen=True)
class Trained(Planted):
    """A planted SAE that says it was trained with L2."""

    coefficient: float = field(default=0.0)

    def load(self, device: str = "cpu") -> SAE[Any]:
        sae = super().load(device)
        penalty = {"name": "weight_penalty", "norm": "l2"}
        regularizers = (
            [{**penalty, "coefficient": self.coefficient}] if self.coefficient else []
        )
        sae.cfg.metadata = SAEMetadata(
            training_architecture="regularized_topk",
            training_architecture_details={
                "init_seed": self.seed,
                "regularizers": regularizers,
            },
        )
        return sae


WIDTH, MATCHED_WIDTH, SHARED = 12, 8, {"none": 2, "weak": 4, "strong": 8, "matched": 2}
COEFFICIENT = {"none": 0.0, "weak": 1e-5, "strong": 1e-4, "matched": 0.0}
VARIANCE = {"none": 0.8, "weak": 0.7, "strong": 0.5, "matched": 0.6}


def evaluate(tmp_path: Path, n: int = 3) -> Path:
    """Two releases evaluated into one folder, the second matched to strong in the first."""
    releases = {"lab-wide": ("none", "weak", "strong"), "lab-matched": ("matched",)}
    out = tmp_path / "out"
    for release, names in releases.items():
        folder = tmp_path / release
        folder.mkdir()
        record = {"matched_to": {"matched": "lab-wide/strong"}}
        entries = (Entry("x", "x", "x", 0),)
        provenance = record if release == "lab-matched" else {}
        write_release(Release(release, "m", entries, folder, provenance))
        register_release(folder)
        subjects: list[Trained] = []
        for name in names:
            d_sae = MATCHED_WIDTH if name == "matched" else WIDTH
            for s in seeds(name, n, common=SHARED[name], d_sae=d_sae):
                subjects.append(
                    Trained(
                        release, s.sae_id, name, s.seed, s.vectors, COEFFICIENT[name]
                    )
                )
        options = {"reconstruction_shares": False, "n_resamples": 200}
        context = RunContext(list(subjects), out, options={"cross_seed": options})
        context.__dict__["heldout"] = {
            s.sae_id: replace(
                heldout(VARIANCE[s.group] + 0.001 * (s.seed or 0)),
                explained_variance_ci_low=VARIANCE[s.group] - 0.01,
                explained_variance_ci_high=VARIANCE[s.group] + 0.01,
            )
            for s in subjects
        }
        assert run(context) == []
    return out


def one(found: list[Comparison], kind: str, group: str, metric: str) -> Comparison:
    (item,) = [
        c
        for c in found
        if (c.kind, c.metric) == (kind, metric) and c.group.endswith(group)
    ]
    return item


def test_planted_controls_are_found_and_compared(tmp_path: Path) -> None:
    out = evaluate(tmp_path)
    found = compare_widths(out)
    kinds = {(c.kind, c.group, c.other) for c in found}
    at_equal = "regularised - matched at equal explained variance"
    assert kinds == {
        ("regularised - wide", "lab-wide/weak", "lab-wide/none"),
        ("regularised - wide", "lab-wide/strong", "lab-wide/none"),
        ("regularised - matched", "lab-wide/strong", "lab-matched/matched"),
        ("matched - wide", "lab-matched/matched", "lab-wide/none"),
        (at_equal, "family of lab-wide/strong", "lab-matched/matched"),
    }
    shared = one(found, "regularised - matched", "strong", "shared")
    assert shared.difference == pytest.approx(8 / 12 - 2 / 8)
    assert shared.interval_over == "latents"
    assert shared.low is not None and shared.high is not None
    assert shared.low < 8 / 12 - 2 / 8 < shared.high
    assert list(shared.values) == [(0, 1), (0, 2), (1, 2)]
    variance = one(found, "matched - wide", "matched", "explained_variance")
    assert variance.difference == pytest.approx(-0.2)
    # .6 lies half-way from weak to strong: (4 + 8) / 2 of 12 shared, less 2 of 8
    equal = one(found, at_equal, "strong", "shared")
    assert equal.difference == pytest.approx(0.5 - 0.25)
    assert equal.explained_variance == pytest.approx(0.601)
    assert equal.between == (1e-5, 1e-4)
    assert equal.interval_over == "latents and contexts"
    assert equal.low is not None and equal.high is not None
    assert equal.low < 0.25 < equal.high
    assert list(equal.values.values()) == pytest.approx([0.25] * 3)
    target = write_comparisons(found, tmp_path / "widths.json")
    written = json.loads(target.read_text(), parse_constant=pytest.fail)
    assert len(written) == len(found)
    assert comparison_table(found).row_count > 10


def test_plots_need_results_only(tmp_path: Path) -> None:
    drawn = plot_cross_seed(evaluate(tmp_path, 2), tmp_path / "plots")
    assert [path.name for path in drawn] == [
        "encoder_decoder_cosine.png",
        "matched_similarity.png",
        "shared_fraction.png",
        "unstable_overlap.png",
    ]
    for path in drawn:
        with Image.open(path) as image:
            image.load()
            assert image.width > 500
            # more than a blank page
            assert sum(n > 0 for n in image.convert("L").histogram()) > 5


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result of the evaluation 'cross_seed'"):
        compare_widths(tmp_path)
    out = evaluate(tmp_path, 2)
    path = next((out / "cross_seed").glob("*.json"))
    record = read_result(path)
    del record["eval_result_unstructured"]["role"]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="of an older version"):
        compare_widths(out)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "lab-broken"
    folder.mkdir()
    entries = (Entry("x", "x", "g", 0),)
    record = {"matched_to": {"g": "nothing"}}
    write_release(Release("lab-broken", "m", entries, folder, record))
    register_release(folder)
    subject = Planted("lab-broken", "x", "g", 0, (torch.eye(2), torch.eye(2)))
    with pytest.raises(InputError, match="of group 'g' as 'nothing'"):
        matched_to(subject)
    assert matched_to(replace(subject, group="other")) is None
    assert matched_to(replace(subject, release="unheard of")) is None
