"""Groups compared at equal width and at equal explained variance, and the pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch
from numpy.testing import assert_allclose
from PIL import Image
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata

from eval_recipes.cross_seed.roles import Role, matched_to, role_of
from eval_recipes.results.reading import read_result
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.statistics.seeds import FEW_SEEDS
from eval_recipes.width_control.equal_variance import (
    KIND,
    Point,
    at_explained_variance,
)
from eval_recipes.width_control.plots import (
    _cosines,
    _overlaps,
    _shared,
    _similarities,
    draw_cross_seed,
    plot_encoder_decoder_cosine,
    plot_matched_similarity,
    plot_shared_fraction,
    plot_unstable_overlap,
)
from eval_recipes.width_control.result_groups import (
    Comparison,
    Estimate,
    ResultGroup,
    read_groups,
)
from eval_recipes.width_control.width_control import (
    compare_widths,
    comparison_table,
    wide_control,
    write_comparisons,
)
from saereg_plugin.errors import InputError
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import Entry, Release, write_release
from tests.eval_recipes.cross_seed.test_cross_seed import Planted, heldout, seeds
from tests.eval_recipes.evaluations import Named

run = Named("cross_seed").run

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
    # slope -2, weights 1/2, neighbours' errors added: .02^2 + (2 * .01)^2 + (2 * .03)^2
    variance = 0.02**2 + 0.02**2 + 0.06**2
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


def evaluate(
    tmp_path: Path,
    n: int = 3,
    n_matched: int | None = None,
    matched_width: int = MATCHED_WIDTH,
) -> Path:
    """
    Two releases evaluated into one folder, the second matched to strong in the first.

    ``n`` seeds each; ``n_matched`` of them in the second.
    """
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
            d_sae = matched_width if name == "matched" else WIDTH
            count = n_matched or n if name == "matched" else n
            for s in seeds(name, count, common=SHARED[name], d_sae=d_sae):
                subjects.append(
                    Trained(
                        release, s.sae_id, name, s.seed, s.vectors, COEFFICIENT[name]
                    )
                )
        options = {"reconstruction_shares": False, "n_resamples": 200}
        context = RunContext(list(subjects), out, options={"cross_seed": options})
        context.measured["heldout"] = {
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
        (at_equal, "lab-wide/strong", "lab-matched/matched"),
    }
    shared = one(found, "regularised - matched", "strong", "shared")
    assert shared.difference == pytest.approx(8 / 12 - 2 / 8)
    assert shared.interval_over == "latents"
    assert shared.low is not None and shared.high is not None
    assert shared.low < 8 / 12 - 2 / 8 < shared.high
    assert list(shared.values) == [(0, 1), (0, 2), (1, 2)]
    # latents of one SAE of either: those of the others are the same concepts
    assert shared.n == WIDTH + MATCHED_WIDTH
    assert shared.reason == FEW_SEEDS
    variance = one(found, "matched - wide", "matched", "explained_variance")
    assert variance.difference == pytest.approx(-0.2)
    assert variance.n == 3
    assert list(variance.values) == [(0,), (1,), (2,)]
    assert list(variance.values.values()) == pytest.approx([-0.2] * 3)
    # .6 lies half-way from weak to strong: (4 + 8) / 2 of 12 shared, less 2 of 8
    equal = one(found, at_equal, "strong", "shared")
    assert equal.difference == pytest.approx(0.5 - 0.25)
    assert equal.explained_variance == pytest.approx(0.601)
    assert equal.between == (1e-5, 1e-4)
    assert equal.interval_over == "latents and contexts"
    assert equal.low is not None and equal.high is not None
    assert equal.low < 0.25 < equal.high
    assert list(equal.values.values()) == pytest.approx([0.25] * 3)
    assert equal.n == 2 * WIDTH + MATCHED_WIDTH
    assert equal.reason == FEW_SEEDS
    target = write_comparisons(found, tmp_path / "widths.json")
    written = json.loads(target.read_text(), parse_constant=pytest.fail)
    assert len(written) == len(found)
    assert all(item["n"] > 0 for item in written)
    singles = [item for item in written if item["metric"] == "explained_variance"]
    assert [value["seeds"] for value in singles[0]["values"]] == [[0], [1], [2]]
    table = comparison_table(found)
    assert table.row_count > 10
    each = {str(cell) for cell in table.columns[-1].cells}
    assert ".417, .417, .417" in each


def test_a_group_that_only_decays_its_weights_is_compared(tmp_path: Path) -> None:
    out = evaluate(tmp_path)

    def decay(record: Any) -> None:
        role = record["eval_result_unstructured"]["role"]
        role["coefficient"], role["penalty"] = 0.0, None
        role["undecayed"] = role["base"]
        role["base"] += " with weight decay"

    edit_records(out, "lab-wide_strong", decay)
    found = [c for c in compare_widths(out) if c.group == "lab-wide/strong"]
    assert {(c.kind, c.other) for c in found} == {
        ("regularised - matched", "lab-matched/matched"),
        ("regularised - wide", "lab-wide/none"),
        (KIND, "lab-matched/matched"),
    }
    shared = one(found, "regularised - matched", "strong", "shared")
    assert shared.difference == pytest.approx(8 / 12 - 2 / 8)
    assert one(found, KIND, "strong", "shared").difference is None
    weak = {c.other for c in compare_widths(out) if c.group == "lab-wide/weak"}
    assert weak == {"lab-wide/none"}


def test_wide_controls_beside_weight_decay() -> None:
    """Of {none, decay, l2, l2 and decay}: one without the penalty, all else equal."""
    decay = {"name": "weight_decay", "decay": 0.1}
    l2 = {"name": "weight_penalty", "norm": "l2", "coefficient": 1e-3}

    def role(name: str, *, penalty: bool, decays: bool) -> Role:
        details = {
            "regularizers": [l2] if penalty else [],
            "mechanics": [decay] if decays else [],
        }
        metadata = {"training_architecture_details": details}
        cfg = {"architecture": "topk", "d_in": 4, "d_sae": 8, "k": 2}
        subject = Subject(release="unheard of", sae_id=name, group=name, seed=0)
        return role_of(subject, {**cfg, "metadata": metadata})

    roles = {
        name: role(name, penalty="l2" in name, decays="decay" in name)
        for name in ("none", "decay", "l2", "l2-decay")
    }
    groups = [ResultGroup(one, name, {}, {}, {}, {}, []) for name, one in roles.items()]
    wide = {
        group.group: found.group
        for group in groups
        if (found := wide_control(group, groups)) is not None
    }
    assert wide == {"none": "none", "decay": "none", "l2": "none", "l2-decay": "decay"}
    assert [name for name, one in roles.items() if one.regularised] == [
        *("decay", "l2", "l2-decay")
    ]


def edit_records(out: Path, sae_ids: str, change: Callable[[Any], None]) -> None:
    """Change result files as an older or odder run would have written them."""
    paths = [*(out / "cross_seed").glob(f"{sae_ids}*.json")]
    assert paths
    for path in paths:
        record = read_result(path)
        change(record)
        path.write_text(json.dumps(record))


def copy_matched(out: Path, change: Callable[[Any], None]) -> None:
    """Add copies of the matched group's results, changed, to the folder."""
    for path in [*(out / "cross_seed").glob("lab-matched*.json")]:
        record = read_result(path)
        change(record)
        record["sae_lens_release_id"] = "lab-copied"
        target = path.with_name(path.name.replace("lab-matched", "lab-copied"))
        target.write_text(json.dumps(record))


def rename(name: str) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        record["eval_result_unstructured"]["role"]["name"] = name

    return change


def test_groups_with_different_seeds_have_no_interval_over_latents(
    tmp_path: Path,
) -> None:
    found = compare_widths(evaluate(tmp_path, 3, n_matched=2))
    for kind in ("regularised - matched", KIND):
        shared = one(found, kind, "strong", "shared")
        assert list(shared.values) == [(0, 1)]
        assert shared.difference == pytest.approx(shared.values[0, 1])
        assert (shared.low, shared.interval_over, shared.n) == (None, None, 1)
        assert shared.reason is not None and "different seeds" in shared.reason
    equal = one(found, KIND, "strong", "shared")
    # the mean over seeds 0 and 1 only
    assert equal.explained_variance == pytest.approx(0.6005)
    variance = one(found, "regularised - matched", "strong", "explained_variance")
    assert (variance.n, list(variance.values)) == (2, [(0,), (1,)])


def test_a_control_as_wide_as_its_group_is_not_compared_with_itself(
    tmp_path: Path,
) -> None:
    found = compare_widths(evaluate(tmp_path, matched_width=WIDTH))
    shared = one(found, KIND, "strong", "shared")
    assert (shared.difference, shared.values) == (None, {})
    assert shared.reason is not None and "all latents are alive" in shared.reason


def test_five_seeds_are_interpolated_pair_by_pair(tmp_path: Path) -> None:
    out = evaluate(tmp_path, 5)

    def vary(record: Any) -> None:
        for pair in record["eval_result_unstructured"]["group_pairs"]:
            pair["shared"] += 0.01 * sum(pair["seeds"])

    edit_records(out, "lab-wide_strong", vary)
    equal = one(compare_widths(out), KIND, "strong", "shared")
    assert (equal.interval_over, equal.n, equal.reason) == ("seed pairs", 10, None)
    assert equal.low is not None and equal.high is not None
    # half of a mean sum of 2 * 2 hundredths on top of .25
    assert equal.difference == pytest.approx(0.25 + 0.02)
    assert equal.low < 0.27 < equal.high

    def out_of_range(record: Any) -> None:
        if record["eval_result_unstructured"]["saereg"]["seed"] == 0:
            record["eval_result_metrics"]["heldout"]["explained_variance"] = 0.3

    edit_records(out, "lab-matched", out_of_range)
    fallen = one(compare_widths(out), KIND, "strong", "shared")
    assert fallen.interval_over == "latents and contexts"
    assert fallen.reason is not None
    assert "4 of 10 pairs of seeds have no value" in fallen.reason
    assert len(fallen.values) == 6


def test_missing_explained_variance_is_a_reason(tmp_path: Path) -> None:
    out = evaluate(tmp_path, 2)

    def lose_ends(record: Any) -> None:
        for end in ("low", "high"):
            record["eval_result_metrics"]["heldout"][f"explained_variance_ci_{end}"] = (
                None
            )

    edit_records(out, "lab-matched", lose_ends)
    equal = one(compare_widths(out), KIND, "strong", "shared")
    assert equal.difference == pytest.approx(0.25)
    assert (equal.low, equal.interval_over, equal.n) == (None, None, 1)
    assert equal.reason is not None and "no interval over latents" in equal.reason

    def lose(record: Any) -> None:
        record["eval_result_metrics"]["heldout"]["explained_variance"] = None

    edit_records(out, "lab-matched", lose)
    equal = one(compare_widths(out), KIND, "strong", "shared")
    assert equal.difference is None
    assert equal.reason is not None and "not defined everywhere" in equal.reason


def test_several_controls_are_refused(tmp_path: Path) -> None:
    out = evaluate(tmp_path, 2)
    copy_matched(out, rename("lab-copied/matched"))
    with pytest.raises(InputError) as caught:
        compare_widths(out)
    for part in (
        "'lab-wide/strong' has several width-matched controls",
        "'lab-copied/matched', 'lab-matched/matched'",
        "folder of its own",
    ):
        assert part in str(caught.value)


def test_several_wide_groups_are_refused_unless_one_is_of_the_release(
    tmp_path: Path,
) -> None:
    out = evaluate(tmp_path, 2)

    def to_wide(name: str) -> Callable[[Any], None]:
        def change(record: Any) -> None:
            rename(name)(record)
            role = record["eval_result_unstructured"]["role"]
            role["d_sae"], role["matched_to"] = WIDTH, None

        return change

    copy_matched(out, to_wide("other/none"))
    wide = {c.other for c in compare_widths(out) if c.kind == "regularised - wide"}
    assert wide == {"lab-wide/none"}
    edit_records(out, "lab-wide_none", rename("another/none"))
    with pytest.raises(InputError, match="several unregularised groups of its width"):
        compare_widths(out)


def test_a_control_of_a_renamed_release_is_not_passed_over_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = evaluate(tmp_path, 2)
    for name in ("none", "weak", "strong"):
        edit_records(out, f"lab-wide_{name}", rename(f"renamed/{name}"))
    kinds = {c.kind for c in compare_widths(out)}
    assert kinds == {"regularised - wide"}
    (message,) = [record.getMessage() for record in caplog.records]
    assert (
        "'lab-matched/matched' is the width-matched control of 'lab-wide/strong'"
        in (message)
    )


def labels(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_each_shape_has_its_line_and_its_baseline(tmp_path: Path) -> None:
    groups = read_groups(evaluate(tmp_path, 2))
    random = [f"random, {width} x 48" for width in (MATCHED_WIDTH, WIDTH)]
    (cosines,) = _cosines(groups).axes
    assert labels(cosines)[-2:] == random
    for axes in _similarities(groups).axes[:1]:
        assert labels(axes)[-2:] == random
    by_k = labels(_shared(groups).axes[0])
    assert by_k[-2:] == random
    # without a penalty there are two widths: no line joins them
    assert "none, 12 latents" in by_k
    assert "none, matched width, 8 latents" in by_k
    (overlaps,) = _overlaps(groups).axes
    assert labels(overlaps)[-1] == "random, d_in 48"


def group_records(out: Path, name: str) -> list[dict[str, Any]]:
    """What the files of one group's SAEs say, as they are on disk."""
    found = [
        json.loads(path.read_text())
        for path in sorted((out / "cross_seed").glob(f"{name}_*.json"))
    ]
    assert len(found) == 3
    return found


def shared_by_pair(out: Path, name: str, metric: str) -> list[float]:
    extra = group_records(out, name)[0]["eval_result_unstructured"]
    return [pair[metric] for pair in extra["group_pairs"]]


Points = list[tuple[float, float]]


def drawn_points(axes: Axes) -> tuple[Points, dict[str, Points], dict[str, float]]:
    """The dots, the lines through their means and the baselines of an axes."""
    dots: Points = []
    lines: dict[str, Points] = {}
    baselines: dict[str, float] = {}
    for line in axes.get_lines():
        x, y = (np.asarray(values, float).tolist() for values in line.get_data())
        label = str(line.get_label())
        if line.get_marker() == "o":
            dots += zip(x, y, strict=True)
        elif label.startswith("random"):
            (baselines[label],) = set(y)
        else:
            lines[label] = [*zip(x, y, strict=True)]
    return sorted(dots), lines, baselines


def varied(out: Path) -> Path:
    """Let every pair of seeds share another part of the latents, in the files."""

    def vary(record: Any) -> None:
        for pair in record["eval_result_unstructured"]["group_pairs"]:
            for metric, step in (("shared", 0.01), ("shared_alive", 0.02)):
                pair[metric] += step * sum(pair["seeds"])

    edit_records(out, "lab-", vary)
    return out


@pytest.mark.parametrize(("row", "metric"), [(0, "shared"), (1, "shared_alive")])
def test_shared_latents_are_drawn_as_the_files_say(
    tmp_path: Path, row: int, metric: str
) -> None:
    out = varied(evaluate(tmp_path))
    names = {
        "none": "lab-wide_none",
        "weak": "lab-wide_weak",
        "strong": "lab-wide_strong",
        "matched": "lab-matched_matched",
    }
    pairs = {name: shared_by_pair(out, file, metric) for name, file in names.items()}
    assert all(len(set(values)) == 3 for values in pairs.values())
    means = {name: sum(values) / 3 for name, values in pairs.items()}
    random = {
        f"random, {width} x 48": group_records(out, names[name])[0][
            "eval_result_metrics"
        ]["baseline"][metric]
        for name, width in (("none", WIDTH), ("matched", MATCHED_WIDTH))
    }
    # a random SAE may have no alive latent
    random = {label: value for label, value in random.items() if value is not None}

    by_coefficient = _shared(read_groups(out)).axes[2 * row + 1]
    dots, lines, baselines = drawn_points(by_coefficient)
    family = ("none", "weak", "strong")
    assert dots == sorted((COEFFICIENT[n], v) for n in family for v in pairs[n])
    (line,) = lines.values()
    assert_allclose(line, [(COEFFICIENT[n], means[n]) for n in family])
    # the matched group has no coefficient to stand at
    wide = f"random, {WIDTH} x 48"
    assert baselines == {label: v for label, v in random.items() if label == wide}
    low, high = by_coefficient.get_xlim()
    assert low < 0 and high > COEFFICIENT["strong"]

    def at_k_4(record: Any) -> None:
        """Make the weakly regularised group an unregularised one of another k."""
        role = record["eval_result_unstructured"]["role"]
        role["k"], role["coefficient"], role["penalty"] = 4, 0.0, None
        details = record["sae_cfg_dict"]["metadata"]["training_architecture_details"]
        details["regularizers"] = []

    edit_records(out, names["weak"], at_k_4)
    dots, lines, baselines = drawn_points(_shared(read_groups(out)).axes[2 * row])
    k = {"none": 1.0, "weak": 4.0, "strong": 1.0, "matched": 1.0}
    assert dots == sorted((k[n], v) for n, values in pairs.items() for v in values)
    expected = {
        "none, 12 latents": [(1.0, means["none"]), (4.0, means["weak"])],
        "l2 0.0001, 12 latents": [(1.0, means["strong"])],
        "none, matched width, 8 latents": [(1.0, means["matched"])],
    }
    assert set(lines) == set(expected)
    for label, points in expected.items():
        assert_allclose(lines[label], points)
    assert baselines == random


def drawn_steps(axes: Axes) -> dict[str, tuple[Any, Any]]:
    """Heights and edges of every histogram of an axes, by label."""
    steps = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    assert len(steps) == len(labels(axes) or steps)
    return {str(step.get_label()): step.get_data()[:2] for step in steps}


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_similarities_are_drawn_as_the_files_say(tmp_path: Path, side: str) -> None:
    out = evaluate(tmp_path)
    name = "matched_similarity_histogram"
    figure = _similarities(read_groups(out))
    drawn = drawn_steps(figure.axes[("decoder", "encoder").index(side)])
    files = {
        "lab-wide/none": "lab-wide_none",
        "lab-wide/weak": "lab-wide_weak",
        "lab-wide/strong": "lab-wide_strong",
        "lab-matched/matched": "lab-matched_matched",
    }
    assert set(drawn) == {*files, "random, 12 x 48", "random, 8 x 48"}
    for label, file in files.items():
        extras = [r["eval_result_unstructured"] for r in group_records(out, file)]
        found = [extra[name][side] for extra in extras]
        counts = [sum(column) for column in zip(*(f["counts"] for f in found))]
        # three SAEs, each matched with two others
        width = MATCHED_WIDTH if "matched" in label else WIDTH
        assert sum(counts) == 6 * width
        assert counts[-1] == 6 * SHARED[label.split("/")[1]]
        assert_density(drawn[label], counts, found[0])
    for label, file in (
        ("random, 12 x 48", files["lab-wide/none"]),
        ("random, 8 x 48", files["lab-matched/matched"]),
    ):
        extra = group_records(out, file)[0]["eval_result_unstructured"]
        found = extra["baseline_histograms"][name][side]
        assert_density(drawn[label], found["counts"], found)


def assert_density(
    drawn: tuple[Any, Any], counts: list[int], histogram: dict[str, Any]
) -> None:
    """Bars over equal bins from ``low`` to ``high``, whose areas are the counts' shares."""
    heights, edges = drawn
    low, high, n = histogram["low"], histogram["high"], len(counts)
    assert edges.tolist() == pytest.approx(
        [low + (high - low) * i / n for i in range(n + 1)]
    )
    shares = [count / sum(counts) for count in counts]
    assert heights.tolist() == pytest.approx([s * n / (high - low) for s in shares])
    assert (heights * np.diff(edges)).sum() == pytest.approx(1)


def test_plots_need_results_only(tmp_path: Path) -> None:
    out = evaluate(tmp_path, 2)
    alone = {
        "encoder_decoder_cosine.png": plot_encoder_decoder_cosine,
        "matched_similarity.png": plot_matched_similarity,
        "shared_fraction.png": plot_shared_fraction,
        "unstable_overlap.png": plot_unstable_overlap,
    }
    drawn = draw_cross_seed(out)
    assert list(drawn) == list(alone)
    for name, picture in drawn.items():
        content = picture._repr_png_()
        assert alone[name](str(out))._repr_png_() == content
        with Image.open(io.BytesIO(content)) as image:
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
