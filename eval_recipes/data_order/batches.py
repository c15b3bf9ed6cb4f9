"""Batches of texts, from easy to hard, that mix clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval_recipes.data_order.ridge import Index
from eval_recipes.statistics.blocks import blocks_of
from eval_recipes.statistics.interval import Array


@dataclass(frozen=True)
class Batches:
    """
    Texts in order.

    Attributes:
        order: numbers of the texts, first to last.
        batch: batch of each of them, from 0 on.
        stage: stage of each of them, from 0 on.
        home: cluster of each one's batch.
    """

    order: Index
    batch: Index
    stage: Index
    home: Index

    def own_share(self, clusters: Index) -> float:
        """Return the share of texts that are of the cluster of their batch; NaN without texts."""
        if not len(self.order):
            return float("nan")
        return float((clusters[self.order] == self.home).mean())


def draw_batches(
    texts: Index,
    clusters: Index,
    difficulty: Array | None,
    *,
    batch_size: int,
    mixing: float,
    stages: int,
    seed: int,
) -> Batches:
    """
    Draw batches of ``batch_size`` texts; only the last one may be smaller.

    Texts are sorted by difficulty into stages of whole batches. Inside a stage each batch has
    a cluster of its own, drawn in proportion to the texts that are left. A share 1 - ``mixing``
    of the batch comes from that cluster, as far as it lasts. The rest is drawn from all texts
    of the stage: with 1 batches are random, with 0 a cluster each as far as possible.

    Args:
        texts: numbers of the texts to use.
        clusters: cluster of every text, by its number.
        difficulty: of every text, by its number; None for one stage.
        batch_size: texts of a batch.
        mixing: between 0 and 1.
        stages: most stages.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    # equally difficult texts are in random order
    shuffled = generator.permutation(np.sort(texts))
    if difficulty is not None:
        shuffled = shuffled[np.argsort(difficulty[shuffled], kind="stable")]
    n_batches = -(-len(shuffled) // batch_size)
    order: list[int] = []
    batch: list[int] = []
    stage: list[int] = []
    home: list[int] = []
    wanted = 1 if difficulty is None else stages
    for number, block in enumerate(blocks_of(n_batches, wanted)):
        left = shuffled[block.start * batch_size : block.stop * batch_size]
        for current in range(block.start, block.stop):
            size = min(batch_size, len(left))
            own = int(generator.choice(clusters[left]))
            drawn = _drawn(left, clusters[left] == own, size, mixing, generator)
            order += [int(left[i]) for i in generator.permutation(drawn)]
            batch += [current] * size
            stage += [number] * size
            home += [own] * size
            left = np.delete(left, drawn)
    columns = (
        np.array(values, dtype=np.intp) for values in (order, batch, stage, home)
    )
    return Batches(*columns)


def _drawn(
    left: Index,
    of_home: np.ndarray[tuple[int], np.dtype[np.bool_]],
    size: int,
    mixing: float,
    generator: np.random.Generator,
) -> Index:
    """Return places in ``left`` of one batch."""
    places = generator.permutation(len(left))
    at_home = places[of_home[places]][: round((1 - mixing) * size)]
    # drawn anew: the first places of this order lack those of the cluster
    others = generator.permutation(np.setdiff1d(places, at_home))
    return np.concatenate([at_home, others[: size - len(at_home)]])
