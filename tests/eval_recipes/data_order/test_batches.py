"""Batches for all sizes: each text once, stages from easy to hard, clusters mixed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.data_order.batches import Batches, draw_batches


def drawn(
    n: int, batch_size: int, mixing: float, stages: int, seed: int, *, hard: bool = True
) -> tuple[Batches, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    clusters = generator.integers(3, size=n)
    difficulty = generator.integers(5, size=n).astype(np.float64)
    texts = np.flatnonzero(generator.random(n) < 0.8)
    found = draw_batches(
        texts,
        clusters,
        difficulty if hard else None,
        batch_size=batch_size,
        mixing=mixing,
        stages=stages,
        seed=seed,
    )
    return found, texts, clusters, difficulty


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 90),
    batch_size=st.integers(1, 20),
    mixing=st.floats(0, 1),
    stages=st.integers(1, 9),
    seed=st.integers(0, 1000),
    hard=st.booleans(),
)
def test_each_text_is_drawn_once_in_whole_batches_from_easy_to_hard(
    n: int, batch_size: int, mixing: float, stages: int, seed: int, hard: bool
) -> None:
    found, texts, _, difficulty = drawn(n, batch_size, mixing, stages, seed, hard=hard)
    assert sorted(found.order) == texts.tolist()
    assert found.batch.tolist() == [i // batch_size for i in range(len(texts))]
    assert (np.diff(found.stage) >= 0).all()
    wanted = min(stages if hard else 1, -(-len(texts) // batch_size))
    assert len(np.unique(found.stage)) == wanted
    if hard:
        for stage in range(1, wanted):
            before = difficulty[found.order[found.stage < stage]]
            after = difficulty[found.order[found.stage >= stage]]
            assert before.max() <= after.min()
    # a batch is of one stage and one home
    for column in (found.stage, found.home):
        pairs = {*zip(found.batch.tolist(), column.tolist(), strict=True)}
        assert len(pairs) == len(np.unique(found.batch))
    again = drawn(n, batch_size, mixing, stages, seed, hard=hard)[0]
    assert again.order.tolist() == found.order.tolist()


def test_mixing_decides_how_much_of_a_batch_is_of_its_cluster() -> None:
    shares = {
        mixing: np.mean(
            [
                found.own_share(clusters)
                for seed in range(20)
                for found, _, clusters, _ in [drawn(300, 10, mixing, 1, seed)]
            ]
        )
        for mixing in (0.0, 0.5, 1.0)
    }
    assert shares[0.0] > 0.9
    assert 0.55 < shares[0.5] < 0.75
    assert 0.25 < shares[1.0] < 0.45


def test_no_texts_give_no_batches() -> None:
    found = draw_batches(
        np.zeros(0, dtype=np.intp),
        np.zeros(3, dtype=np.intp),
        np.zeros(3),
        batch_size=4,
        mixing=0.5,
        stages=2,
        seed=0,
    )
    assert len(found.order) == len(found.batch) == 0
    assert np.isnan(found.own_share(np.zeros(3)))
