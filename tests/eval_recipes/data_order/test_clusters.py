"""Clusters: planted ones are found and agree between halves, noise does not."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score

from eval_recipes.data_order.clusters import cluster_texts, score_clusters
from eval_recipes.data_order.features import Features
from tests.eval_recipes.data_order.planted import planted_features, planted_texts


def clustered(n: int = 120) -> tuple[Features, np.ndarray]:
    """Features of three topics, each with five latents of its own; the topics."""
    generator = np.random.default_rng(2)
    topics = generator.permutation(np.repeat([0, 0, 0, 1, 1, 2], n // 6))
    rates = generator.random((n, 15)) * 0.05
    for topic in range(3):
        rates[topics == topic, 5 * topic : 5 * topic + 5] += 0.5
    texts = planted_texts(n)
    found = planted_features(texts)
    return Features(csr_matrix(rates), found.raw, found.tokens, texts.texts), topics


def test_planted_clusters_are_found_and_counted() -> None:
    features, topics = clustered()
    found = cluster_texts(features, None, seed=0)
    assert found.n == 3 and found.silhouettes[3] == max(found.silhouettes.values())
    assert adjusted_rand_score(topics, found.labels) == 1
    # the largest first
    assert np.bincount(found.labels).tolist() == [60, 40, 20]
    again = cluster_texts(features, None, seed=0)
    assert again.labels.tolist() == found.labels.tolist()
    two = cluster_texts(features, 2, seed=0)
    assert two.n == 2 and two.silhouettes == {}


def test_planted_clusters_agree_between_halves_and_others_do_not() -> None:
    features, _ = clustered()
    scores, differences = score_clusters(
        features, np.arange(120), 3, permutations=19, seed=0
    )
    by_kind = {one.features: one for one in scores}
    assert set(by_kind) == {"sae", "raw", "tfidf"}
    assert by_kind["sae"].held_out.value == 1 and by_kind["sae"].p_value == 1 / 20
    assert by_kind["sae"].held_out.n == 60
    for kind in ("raw", "tfidf"):
        assert by_kind[kind].held_out.value < 0.4
    assert all(one.value.value > 0.5 for one in differences)
    assert abs(by_kind["sae"].null_mean or 0) < 0.05
