"""Contrastive selection: AUROC by its definition, honest figures, a probe that measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.select.halves import halves
from eval_recipes.statistics.auroc import NO_VARIANCE, PERFECT, auroc
from eval_recipes.steering.generate.decoding import Continuation
from eval_recipes.steering.generate.trials import Arm, Trial
from eval_recipes.steering.judges.probe import (
    ONE_DIRECTION,
    contrast_report,
    effect,
    train_probe,
)
from eval_recipes.steering.select.candidates import separating_latents
from eval_recipes.steering.select.contrast import TextSets, identity
from saereg_plugin.errors import InputError

SEA = [f"the {word} on the sea {i}" for i, word in enumerate(["wave", "ship"] * 8)]
LAW = [f"the {word} of the court {i}" for i, word in enumerate(["judge", "law"] * 8)]


def words(texts: Sequence[str]) -> torch.Tensor:
    """Count a few words: an embedding that anyone can follow."""
    known = ("wave", "ship", "sea", "judge", "law", "court")
    return torch.tensor([[float(text.count(word)) for word in known] for text in texts])


values = st.lists(st.integers(-3, 3), min_size=2, max_size=9)


@settings(max_examples=80, deadline=None)
@given(values, values)
def test_auroc_is_the_chance_of_the_right_order(a: list[int], b: list[int]) -> None:
    expected = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    found = auroc(a, b)
    assert found.value == pytest.approx(expected)
    assert found.n == len(a) + len(b)
    assert auroc(b, a).value == pytest.approx(1 - expected)
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.value <= found.high <= 1
        # DeLong's variance by its sums over placements
        v10 = [float(np.mean([(x > y) + 0.5 * (x == y) for y in b])) for x in a]
        v01 = [float(np.mean([(x > y) + 0.5 * (x == y) for x in a])) for y in b]
        error = np.sqrt(np.var(v10, ddof=1) / len(a) + np.var(v01, ddof=1) / len(b))
        half = 1.959963984540054 * error / (expected * (1 - expected))
        odds = np.log(expected / (1 - expected))
        assert np.log(found.high / (1 - found.high)) == pytest.approx(odds + half)
        assert np.log(found.low / (1 - found.low)) == pytest.approx(odds - half)


def test_auroc_without_an_interval_says_why() -> None:
    assert auroc([3, 4], [1, 2])[:5] == (1.0, None, None, 4, PERFECT)
    assert auroc([1, 1], [1, 1]).reason == NO_VARIANCE
    with pytest.raises(ValueError, match="expected 2 of each"):
        auroc([1.0], [1.0, 2.0])


def test_the_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        found = auroc(generator.normal(0.742, 1, 40), generator.normal(0, 1, 40))
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.7 <= found.high  # P(N(.742, 2) > 0) = .7
    assert 270 <= covered <= 299


def test_the_best_latent_is_found_and_measured_on_other_texts() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.random((60, 500)), generator.random((50, 500))
    a[:, 77] += 0.5
    pool = [j for j in range(500) if j != 3]
    a[:, 3] += 5.0  # not in the pool
    best = separating_latents(a, b, pool, 4, seed=0)
    assert [one.latent for one in best][0] == 77 and len(best) == 4
    assert best[0].measured.value > 0.75
    # the best of many random latents is no better than chance on other texts
    for one in best[1:]:
        assert one.selected > 0.7
        assert one.measured.low is not None and one.measured.low < 0.6
    assert best == separating_latents(a, b, pool, 4, seed=0)
    with pytest.raises(InputError, match="No latent is larger on the first texts"):
        separating_latents(a, b + 10, pool, 4, seed=0)
    split = halves(9, seed=0)
    assert sorted([*split.select, *split.measure]) == list(range(9))
    with pytest.raises(ValueError, match="3 inputs; expected 4"):
        halves(3, seed=0)


def test_a_probe_tells_texts_and_steering_apart() -> None:
    probe = train_probe(SEA, LAW, words, seed=0)
    assert probe.accuracy.value == 1.0 and probe.accuracy.n == 16
    # rightly classified texts, however few, do not prove that all others are
    assert probe.accuracy.low is not None and 0.7 < probe.accuracy.low < 1
    assert probe.auroc.value == 1.0
    chances = probe.chances(["the ship on the sea", "the law of the court"])
    assert chances[0] > 0.8 and chances[1] < 0.2
    plain, moved = ["the law"] * 3 + ["words"], ["the sea"] * 3 + ["words"]
    found = effect(probe, plain, moved, seed=0)
    assert found.after > found.before and found.change.value > 0
    assert found.change.value == pytest.approx(found.after - found.before)
    assert found.change.n == 4
    # prompts that differ in what steering does are no spread of it
    texts = ["the law"] * 6, ["the sea"] * 3 + ["the ship of the court"] * 3
    loose = effect(probe, *texts, seed=0).change
    prompts = [0] * 3 + [1] * 3
    within = effect(probe, *texts, prompts=prompts, seed=0).change
    assert within.value == pytest.approx(loose.value) and within.n == loose.n == 6
    assert loose.low is not None and loose.low < loose.value - 0.01
    assert within.low is None and "all values are equal" in (within.reason or "")
    # a single pair of each prompt has no spread within it
    single = effect(probe, *texts, prompts=range(6), seed=0).change
    assert single.low == loose.low
    same = effect(probe, plain, plain, seed=0).change
    assert (same.value, same.low) == (0.0, None) and same.reason
    # three directions at two prompts each are three draws, not six
    moved = ["the sea"] * 2 + ["the law"] * 2 + ["the ship of the court"] * 2
    draws = effect(
        probe,
        ["the law"] * 6,
        moved,
        prompts=[0, 1] * 3,
        directions=[0, 0, 1, 1, 2, 2],
        seed=0,
    ).change
    assert draws.n == 3 and draws.low is not None and draws.high is not None
    pairs = effect(probe, ["the law"] * 6, moved, prompts=[0, 1] * 3, seed=0).change
    assert pairs.n == 6 and pairs.low is not None and pairs.high is not None
    assert draws.value == pytest.approx(pairs.value)
    assert draws.high - draws.low > 1.2 * (pairs.high - pairs.low)
    # the mean of three draws with replacement, all the same with a chance of 1 / 27 each
    each = np.array(
        [
            found.value
            for found in [
                effect(probe, ["the law"], [text], seed=0).change for text in moved[::2]
            ]
        ]
    )
    assert draws.low == pytest.approx(each.min()) and draws.high == pytest.approx(
        each.max()
    )
    alone = effect(probe, ["the law"] * 2, moved[:2], directions=[4, 4], seed=0).change
    assert (alone.low, alone.n, alone.reason) == (None, 1, ONE_DIRECTION)
    equal = effect(probe, plain, plain, directions=[0, 0, 1, 1], seed=0).change
    assert (equal.value, equal.low, equal.n) == (0.0, None, 2)
    with pytest.raises(ValueError, match="1 unsteered, 2 steered"):
        effect(probe, ["a"], ["b", "c"], seed=0)


def test_noise_is_not_told_apart() -> None:
    generator = np.random.default_rng(0)
    made = [f"{a} {b}" for a, b in generator.choice(["sea", "law", "ship"], (120, 2))]
    a, b = ([f"{t} {i}" for i, t in enumerate(part)] for part in (made[:60], made[60:]))
    probe = train_probe(a, b, words, seed=0)
    assert 0.3 < probe.accuracy.value < 0.7
    assert probe.auroc.low is not None and probe.auroc.low < 0.55


def test_a_report_has_every_strength_and_its_control() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((16, 3)), generator.random((16, 3))
    a[:, 1] += 2
    best = separating_latents(a, b, [0, 1, 2], 1, seed=0)
    probe = train_probe(SEA, LAW, words, seed=0)

    def text(words: str) -> Continuation:
        return Continuation((1,), words)

    arms: dict[Arm, str] = {"steered": "the sea", "random": "the law"}
    trials = [
        Trial(arm, 1, 0, repeat, amount, amount, text("the law"), text(other))
        for amount in (5.0, 9.0)
        for arm, other in arms.items()
        for repeat in range(3)
    ]
    found = contrast_report(trials, best, probe, (16, 16), (9.0, 5.0), seed=0)
    (latent,) = found.latents
    assert latent.latent == 1 and latent.measured.value == 1.0
    assert [one.amount for one in latent.steered] == [9.0, 5.0]
    assert all(one.change.value > 0.3 for one in latent.steered)
    assert all(one.change.value == 0.0 for one in latent.random)
    # a repeat has one direction, a prompt has another text
    assert [one.change.n for one in latent.random] == [3, 3]


def test_text_sets_are_files_of_lines(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("\n".join([*SEA, "", SEA[0]]))
    b.write_text("\n".join(LAW))
    sets = TextSets.read([str(a), str(b)])
    assert sets.a == tuple(SEA) and sets.b == tuple(LAW)
    before = identity([str(a), str(b)])
    b.write_text("\n".join([*LAW, SEA[3]]))
    assert identity([str(a), str(b)])[0] == before[0]
    assert identity([str(a), str(b)])[1] != before[1]
    with pytest.raises(InputError, match="1 texts stand in"):
        TextSets.read([str(a), str(b)])
    b.write_text("one\ntwo\nthree\n")
    with pytest.raises(InputError, match="3 different texts; expected 4"):
        TextSets.read([str(a), str(b)])
    b.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="UTF-8"):
        TextSets.read([str(a), str(b)])
    with pytest.raises(InputError, match="does not exist"):
        identity([str(tmp_path / "none.txt")])
