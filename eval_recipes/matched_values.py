"""The mean over two sides whose values belong together in pairs, with its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from eval_recipes.interval import Interval
from eval_recipes.statistics import bootstrap_mean_interval


def bootstrap_matched_interval(
    own: ArrayLike,
    other: ArrayLike,
    partner: ArrayLike,
    *,
    cap: float | None = None,
    n_resamples: int = 1000,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """
    Percentile bootstrap of ``(mean(own) + mean(other)) / 2``, partners drawn together.

    Of two matched latents each value says how like the other it is: nearly the same number
    twice. Drawn apart they would pass for two, and the interval would be too narrow by a
    factor of up to sqrt(2). Values without a partner are drawn on their own. ``n`` counts what
    is drawn: pairs, and values without a partner.

    Args:
        own, other: finite numbers of either side, [n_own] and [n_other], not empty.
        partner: [n_own] index in ``other`` of each value's partner, -1 for none.
        cap: if given, no value of either side leaves [0, cap]; see ``bootstrap_mean_interval``.
        n_resamples: bootstrap resamples.
        seed: seed of the resampling.
        level: coverage of the interval.

    Raises:
        ValueError: if a side is empty, or ``partner`` is no matching of the two.

    >>> found = bootstrap_matched_interval([0.9, 0.1], [0.3, 0.9, 0.0], [1, -1], seed=0)
    >>> round(found.value, 6), found.n
    (0.45, 4)
    """
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (own, other))
    partners = np.asarray(partner, dtype=np.int64).ravel()
    if not a.size or not b.size:
        raise ValueError(f"expected values on both sides; got {a.size} and {b.size}")
    matched = partners >= 0
    chosen = partners[matched]
    if partners.size != a.size or (np.bincount(chosen, minlength=b.size) > 1).any():
        raise ValueError(f"expected a partner, used once, or -1 for each of {a.size}")
    if chosen.size and chosen.max() >= b.size:
        raise ValueError(f"partner {chosen.max()} of {b.size} values on the other side")
    alone = np.delete(b, chosen)
    # what the pairs weigh in the mean of either side
    in_a, in_b = 0.5 * chosen.size / a.size, 0.5 * chosen.size / b.size
    samples = [
        (in_a * a[matched] + in_b * b[chosen], 1.0, in_a + in_b),
        (a[~matched], 0.5 - in_a, 1.0),
        (alone, 0.5 - in_b, 1.0),
    ]
    drawn = [sample for sample in samples if sample[0].size]
    found = bootstrap_mean_interval(
        [values for values, _, _ in drawn],
        weights=[weight for _, weight, _ in drawn],
        caps=None if cap is None else [cap * share for _, _, share in drawn],
        n_resamples=n_resamples,
        seed=seed,
        level=level,
    )
    # of the sides themselves, so that the matching does not touch its rounding
    value = 0.5 * float(a.mean()) + 0.5 * float(b.mean())
    return found._replace(value=value, n=sum(values.size for values, _, _ in drawn))
