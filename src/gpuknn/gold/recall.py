"""Recall of a result against a gold standard."""

from dataclasses import dataclass

import numpy as np

from gpuknn.errors import InputError
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold.ids_only import has_distances


@dataclass(frozen=True)
class Recall:
    """Recall at k, by ids alone and with ties counted as found."""

    k: int
    by_ids: float
    """As the SISAP evaluation computes it: the mean share of the gold's k ids among the result's k."""
    tie_aware: float
    """The same, where any id at the distance of the gold's k-th neighbour counts; at most 1 for each query."""
    undecided: int
    """Queries whose k-th distance is still that of the gold's last column, where k is less: ties may go on past it, and
    `tie_aware` may be too low.  Where k is the last column nothing is known of what follows, and this is 0."""


def recall(result: Neighbors, gold: Neighbors, k: int | None = None) -> float:
    """Mean over all queries of |first k of result and first k of gold| / k, by ids alone.

    The measure of the SISAP challenges.  `k` defaults to the narrower of the two.  Raises InputError where the
    numbers of queries differ or k exceeds either width.
    """
    k = _check(result, gold, k)
    shared = (len(np.intersect1d(a, b)) for a, b in zip(result.ids[:, :k], gold.ids[:, :k], strict=True))
    return sum(shared) / (k * len(gold.ids))


def tie_aware_recall(result: Neighbors, gold: Neighbors, k: int) -> Recall:
    """Recall at k by ids and with ties, where the gold standard has distances to tell them; raises as `recall` does."""
    _check(result, gold, k)
    found, known = 0, has_distances(gold)
    for ids, gold_ids, dists in zip(result.ids[:, :k], gold.ids, gold.dists, strict=True):
        near = gold_ids[dists <= dists[k - 1]] if known else gold_ids[:k]
        found += min(k, len(np.intersect1d(ids, near)))
    ties = gold.dists[:, -1] == gold.dists[:, k - 1]
    undecided = int(np.count_nonzero(ties)) if k < gold.dists.shape[1] else 0
    return Recall(k, recall(result, gold, k), found / (k * len(gold.ids)), undecided)


def _check(result: Neighbors, gold: Neighbors, k: int | None) -> int:
    widths = result.ids.shape[1], gold.ids.shape[1]
    k = min(widths) if k is None else k
    if len(result.ids) != len(gold.ids):
        raise InputError(f"the result answers {len(result.ids)} queries, the gold standard {len(gold.ids)}")
    if len(gold.ids) == 0:
        raise InputError("there are no queries in the gold standard")
    if not 1 <= k <= min(widths):
        raise InputError(
            f"k = {k}: the result has {widths[0]} neighbours for each query, the gold standard {widths[1]}"
        )
    return k
