"""Selection of latents by two sets of inputs: planted latents, nulls, any kind of passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from eval_recipes.select.halves import halves
from eval_recipes.select.inputs import input_vectors, select_latents
from eval_recipes.select.separation import Selection, separate
from eval_recipes.statistics.auroc import auroc
from eval_recipes.statistics.interval import Array
from saereg_plugin.activations.source import InputSource, Pass
from saereg_plugin.errors import InputError

D_IN, D_SAE = 6, 12


def planted(n: int = 60) -> tuple[Array, Array]:
    """Vectors whose latent 5 is larger on the first set, and latent 9 smaller."""
    generator = np.random.default_rng(0)
    first, second = generator.random((n, 40)), generator.random((n + 10, 40))
    first[:, 5] += 0.8
    second[:, 9] += 0.6
    first[:, 3] = second[:, 3] = 0.0
    return first, second


@pytest.mark.parametrize("method", ["auroc", "logistic"])
def test_planted_latents_come_first_with_their_signs(method: Any) -> None:
    found = separate(*planted(), method=method, n=2, permutations=40)
    assert found.ids == [5, 9] and found.signs == [1.0, -1.0]
    assert found.larger_on_first == [5]
    up, down = found.latents
    assert up.measured.value > 0.8 and down.measured.value < 0.25
    assert up.measured.n == 65 and up.measured.low is not None
    assert up.selected > 0.8 and down.selected < 0.25
    assert up.p_value == 1 / 41
    assert found.null_score is not None and found.null_score < abs(down.score)
    assert found.together.value > 0.9 and found.together.n == 65
    upwards = separate(*planted(), method=method, n=3, sides="first", permutations=0)
    assert upwards.ids[0] == 5 and 9 not in upwards.ids
    assert upwards.latents[0].p_value is None and upwards.null_score is None


def test_upward_auroc_is_the_figure_of_each_latent() -> None:
    first, second = planted()
    found = separate(first, second, n=40, sides="first", permutations=0, seed=4)
    of_first, of_second = (halves(len(one), seed=4) for one in (first, second))
    chosen_by = [
        auroc(first[of_first.select, j], second[of_second.select, j]).value
        for j in range(40)
    ]
    larger = [j for j in range(40) if chosen_by[j] > 0.5]
    assert found.ids == sorted(larger, key=lambda j: (-chosen_by[j], j))
    for one in found.latents:
        assert one.selected == pytest.approx(chosen_by[one.latent])
        assert one.measured == auroc(
            first[of_first.measure, one.latent], second[of_second.measure, one.latent]
        )


def test_coefficients_are_those_of_a_plain_regression() -> None:
    first, second = planted()
    found = separate(first, second, method="logistic", n=40, permutations=0, seed=1)
    of_first = halves(len(first), seed=1).select
    of_second = halves(len(second), seed=1).select
    x = np.concatenate([first[of_first], second[of_second]])
    varying = [j for j in range(40) if j != 3]
    x = (x[:, varying] - x[:, varying].mean(0)) / x[:, varying].std(0)
    y = [1] * len(of_first) + [0] * len(of_second)
    model: Any = LogisticRegression(class_weight="balanced", max_iter=1000).fit(x, y)
    expected = dict(zip(varying, model.coef_[0].tolist(), strict=True))
    assert 3 not in found.ids and len(found.ids) == 39
    for one in found.latents:
        assert one.score == pytest.approx(expected[one.latent])
    assert found.ids == sorted(expected, key=lambda j: -abs(expected[j]))


@pytest.mark.parametrize("method", ["auroc", "logistic"])
def test_p_values_of_sets_alike_are_those_of_chance(method: Any) -> None:
    """The strongest of 30 latents without a difference is below .2 in a fifth of the runs."""
    generator = np.random.default_rng(2)
    p_values: list[float] = []
    for seed in range(25):
        first, second = generator.random((16, 30)), generator.random((16, 30))
        found = separate(first, second, method=method, n=1, permutations=19, seed=seed)
        p = found.latents[0].p_value
        assert p is not None
        p_values.append(p)
    assert 0.3 < float(np.mean(p_values)) < 0.75
    assert sum(p <= 0.2 for p in p_values) <= 12


def test_latents_that_never_vary_are_left_out() -> None:
    zeros = np.zeros((6, 3))
    for method in ("auroc", "logistic"):
        found = separate(zeros, zeros, method=method, n=2, permutations=5)
        assert found.ids == []
        assert found.together.reason == "no latent separates the sets"
    json.dumps(found.to_json(), allow_nan=False)


def tiny_sae() -> TopKSAE:
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=3))
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return sae


def shifted(n: int, by: Tensor, seed: int) -> Pass:
    """Inputs of 4 rows; the last row of each is padding, of huge numbers."""
    rows = torch.randn(n, 4, D_IN, generator=torch.Generator().manual_seed(seed)) + by
    rows[:, 3] = 1e6
    keep = torch.tensor([True, True, True, False]).expand(n, 4)
    return Pass({"here": rows}, keep, torch.arange(n))


class Fixed(InputSource):
    """A source of passes that are there already."""

    kind = "fixed"

    def __init__(self, one: Pass) -> None:
        self.one = one
        self.n_inputs = len(one.keep)

    def passes(self, numbers: Tensor) -> Iterator[Pass]:
        for part in numbers.split(3):
            yield Pass(
                {"here": self.one.activations["here"][part]}, self.one.keep[part], part
            )

    def identity(self) -> dict[str, Any]:
        return {}

    def metadata(self, point: str) -> dict[str, Any]:
        return {"point": point}


def test_vectors_are_means_over_kept_rows() -> None:
    sae, one = tiny_sae(), shifted(5, torch.zeros(D_IN), 1)
    active = input_vectors(sae, [one])
    every = input_vectors(sae, Fixed(one), point="here", mean="all")
    for number, rows in enumerate(one.activations["here"]):
        codes = sae.encode(rows[:3]).detach().double()
        for j in range(D_SAE):
            fired = codes[:, j][codes[:, j] != 0]
            expected = float(fired.mean()) if len(fired) else 0.0
            assert active[number, j] == pytest.approx(expected)
            assert every[number, j] == pytest.approx(float(codes[:, j].mean()))
    assert active.shape == (5, D_SAE) and input_vectors(sae, []).shape == (0, D_SAE)


@pytest.mark.parametrize("method", ["auroc", "logistic"])
def test_sources_and_passes_give_the_same_selection(method: Any) -> None:
    sae = tiny_sae()
    by = 3 * sae.W_dec[4].detach() / sae.W_dec[4].norm()
    first, second = shifted(12, by, 1), shifted(10, torch.zeros(D_IN), 2)
    found = select_latents(sae, [first], Fixed(second), method=method, n=4)
    again = select_latents(
        sae, Fixed(first), [second], point="here", method=method, n=4
    )
    assert found == again and isinstance(found, Selection)
    assert (found.n_first, found.n_second) == (12, 10)
    table = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert table["latents"] == found.ids
    assert table["figures"][0]["measured"]["n"] == 11
    assert table["together"]["value"] > 0.7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "auc"}, "method is 'auc'"),
        ({"mean": "sum"}, "mean is 'sum'"),
        ({"sides": "second"}, "sides is 'second'"),
        ({"n": 0}, "n is 0"),
        ({"permutations": -1}, "permutations is -1"),
        ({"point": "there"}, "point is 'there'"),
    ],
)
def test_unusable_settings_are_refused(change: dict[str, Any], says: str) -> None:
    sets = [shifted(6, torch.zeros(D_IN), seed) for seed in (1, 2)]
    with pytest.raises(InputError, match=says):
        select_latents(tiny_sae(), *([one] for one in sets), **change)


def test_unusable_sets_are_refused() -> None:
    with pytest.raises(InputError, match="3 and 5 inputs; expected 4"):
        separate(np.zeros((3, 2)), np.zeros((5, 2)))
    with pytest.raises(InputError, match="of one width"):
        separate(np.zeros((4, 2)), np.zeros((5, 3)))
