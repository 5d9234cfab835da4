"""Recall of a result against a gold standard."""

from dataclasses import dataclass, replace

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.answers import Answer, as_gold, named
from gpuknn.gold.distances import BITS, FOR_ANN_BENCHMARKS, alike, as_distance
from gpuknn.gold.gold import Gold, unsorted_query
from gpuknn.gold.match import matched

EPSILON = 1e-3
"""What ann-benchmarks adds to the k-th distance before it counts (ann_benchmarks/plotting/metrics.py)."""
SAME_KIND = 1e-3
"""Two distances of one pair that differ by more, relative to them, are not of one kind."""
WHERE = ("the result", "the gold standard")
"""What messages call the two if they have no paths."""


@dataclass(frozen=True, repr=False)
class Recall:
    """Recall at k, in three ways; each the mean over all queries of a share of the gold's neighbours.

    If the gold has fewer than k neighbours of a query (its line is filled up with -1), these are all that count; a
    query that has none counts as answered (as OpenSearch's benchmark has it).
    """

    k: int
    by_ids: float
    """As the SISAP evaluation computes it: the share of the gold's k ids that are among the result's k."""
    tie_aware: float
    """The same, but any id of the gold at the distance of its k-th neighbour counts, too; at most 1 for each query."""
    by_distances: float | None
    """As ann-benchmarks computes it: the share of the result's k whose distance, by the result's own word, is at most
    that of the gold's k-th neighbour plus epsilon; None if nothing shows that both hold distances of one kind."""
    epsilon: float
    undecided: int
    """Queries whose k-th distance is still that of the gold's last column, if k is less: ties may go on past it, and
    `tie_aware` may be too low.  If k is the last column nothing is known of what follows, and this is 0."""
    repeated: int
    """Queries of which the result has an id more than once; it was counted once."""
    short: int
    """Queries of which the gold has fewer than k different neighbours."""

    def __repr__(self) -> str:
        by_distances = None if self.by_distances is None else f"{self.by_distances:.6f}"
        figures = f"by_ids={self.by_ids:.6f}, tie_aware={self.tie_aware:.6f}, by_distances={by_distances}"
        return f"Recall(k={self.k}, {figures})"


def recall(result: Answer, gold: Answer, *, k: int | None = None) -> float:
    """Mean over all queries of the share of the gold's first k ids that are among the result's, by ids alone.

    The measure of the SISAP challenges.  `evaluate` knows ties and distances, too.

    Parameters
    ----------
    result, gold
        Each is a file's path (`FILE:GROUP` if it holds several answers), what `exact_knn` or `read_gold` gives, an
        array (nq, k) of ids, or ids and distances as a pair.  The arrays of NumPy, PyTorch, CuPy, JAX and lists are
        taken.  Ids in arrays count from 0 and -1 is no id, as in FAISS's `I`: `D, I = index.search(queries, k)`, then
        `recall(I, gold)` or `recall((I, D), gold)`.  So do the labels of hnswlib.  They are row numbers; ids that the
        database's file gives are passed as `gpuknn.Gold(I, own_ids=I)`.  `knns` of an HDF5 file count from 1: name the
        file.
    k
        The first neighbours to count; those of the narrower of the two by default.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    InputError
        The numbers of queries differ, k is more than one of the two has, or these are no ids.

    Examples
    --------
    >>> import gpuknn, numpy as np
    >>> gold = gpuknn.exact_knn([[0.0], [1.0], [4.0], [9.0]], [[0.0], [8.0]], k=2, metric="l2")
    >>> gold.ids
    array([[0, 1],
           [3, 2]])
    >>> I = np.array([[0, 2], [2, 3]])
    >>> gpuknn.recall(I, gold)
    0.75
    >>> gpuknn.recall(I, gold, k=1)
    0.5
    """
    where = named(result, WHERE[0]), named(gold, WHERE[1])
    pair = matched(as_gold(result, where[0]), as_gold(gold, where[1]), where)
    return _by_ids(pair.a, pair.b, _check(pair.a, pair.b, min(pair.a.shape[1], pair.b.shape[1]) if k is None else k))


def recall_at(result: Gold, gold: Gold, k: int, epsilon: float = EPSILON, distance: str | None = None) -> Recall:
    """Recall at k by ids, with ties, and by distances: those called `distance`, or those that ann-benchmarks counts by.

    Both answer the same queries and number the same rows (`match.matched`).  Raises InputError as `recall` does, and if
    the gold's distances do not ascend, or are no numbers.
    """
    k = _check(result, gold, k)
    wrong = None if gold.dists is None else unsorted_query(gold)
    if wrong is not None:
        raise InputError(f"the gold standard's distances of query {wrong} (counted from 0) {_fault(gold, wrong)}")
    true, limits = _neighbors(gold, k), _limits(gold, k)
    found, repeated = np.zeros(len(gold), int), 0
    for query, (ids, gold_ids) in enumerate(zip(result.ids[:, :k], gold.ids, strict=True)):
        near = gold_ids[:k] if gold.dists is None else gold_ids[gold.dists[query] <= limits[query]]
        found[query] = min(true[query], len(_set(ids) & _set(near)))
        repeated += len(_set(ids)) < int(np.count_nonzero(ids >= 0))
    return Recall(
        k,
        _by_ids(result, gold, k),
        _mean(found, true),
        _by_distances(result, gold, k, true, epsilon, distance),
        epsilon,
        _undecided(gold, k),
        repeated,
        int(np.count_nonzero(true < k)),
    )


def one_kind(result: Gold, gold: Gold) -> bool | None:
    """Whether two answers give pairs like distances, and not one roots and the other squares; None if no pair tells."""
    if result.dists is None or gold.dists is None:
        return None
    apart, pairs = 0, 0
    for ids, dists, true, exact in zip(result.ids, result.dists, gold.ids, gold.dists, strict=True):
        _, mine, theirs = np.intersect1d(ids, true, return_indices=True)
        both = (ids[mine] >= 0) & np.isfinite(dists[mine]) & np.isfinite(exact[theirs])
        x, y = dists[mine][both].astype(np.float64), exact[theirs][both].astype(np.float64)
        telling = np.abs(y - y * y) > EPSILON + SAME_KIND * np.abs(y)  # 0 and 1 are their own squares
        x, y = x[telling], y[telling]
        apart += int(np.count_nonzero(np.abs(x - y) > EPSILON + SAME_KIND * np.abs(y)))
        pairs += len(x)
    return 2 * apart <= pairs if pairs else None


def _by_ids(result: Gold, gold: Gold, k: int) -> float:
    found = [len(_set(ids[:k]) & _set(true[:k])) for ids, true in zip(result.ids, gold.ids, strict=True)]
    return _mean(np.array(found), _neighbors(gold, k))


def _fault(gold: Gold, query: int) -> str:
    assert gold.dists is not None
    wrong = np.flatnonzero(np.isnan(gold.dists[query]) & (gold.ids[query] >= 0))
    if len(wrong):
        return f"hold NaN at rank {wrong[0]} (counted from 0); mend them, or leave out the distances"
    return "do not ascend; sort them, or leave out the distances"


def _neighbors(gold: Gold, k: int) -> np.ndarray:
    """(nq,) int: the different neighbours among the first k; some files repeat the last one in place of padding."""
    return np.array([len(_set(ids)) for ids in gold.ids[:, :k]])


def _limits(gold: Gold, k: int) -> np.ndarray:
    """(nq,) float64: the distances of the last neighbours among the first k; -inf if there is none."""
    if gold.dists is None:
        return np.full(len(gold), -np.inf)
    there = gold.ids[:, :k] >= 0
    last = k - 1 - np.argmax(there[:, ::-1], axis=1)
    return np.where(there.any(axis=1), gold.dists.astype(np.float64)[np.arange(len(gold)), last], -np.inf)


def _by_distances(
    result: Gold, gold: Gold, k: int, true: np.ndarray, epsilon: float, distance: str | None
) -> float | None:
    if distance is not None and result.distance is not None:
        result, gold = _both_as(result, gold, distance)
    try:
        a, b = alike(result, gold, WHERE)
    except InputError:
        return None
    seen = one_kind(a, b)
    by_their_word = a.distance is not None and a.distance == b.distance
    if a.dists is None or b.dists is None or not (by_their_word if seen is None else seen):
        return None
    if any(gold.distance is None and gold.were_similarities is None for gold in (a, b)):
        return None  # whether less is nearer
    a, b = _as_ann_benchmarks(a, b) if distance is None else _both_as(replace(a, distance=b.distance), b, distance)
    assert a.dists is not None
    found = np.zeros(len(b), int)
    # In float32, as that suite keeps them; epsilon is added without rounding.
    limits = _limits(b, k).astype(np.float32).astype(np.float64) + epsilon
    near = a.dists[:, :k].astype(np.float32).astype(np.float64) <= limits[:, None]
    for query, (ids, close) in enumerate(zip(a.ids[:, :k], near, strict=True)):
        found[query] = min(true[query], len(_set(ids[close])))
    return _mean(found, true)


def _as_ann_benchmarks(result: Gold, gold: Gold) -> tuple[Gold, Gold]:
    """Both with the distances that ann-benchmarks counts by, roots and shares of bits, if the gold's kind is known."""
    wanted = FOR_ANN_BENCHMARKS.get(gold.distance or "")
    if wanted is None or (gold.distance == "hamming" and BITS not in gold.said):
        return result, gold
    return _both_as(replace(result, distance=gold.distance, said=gold.said), gold, wanted)


def _both_as(result: Gold, gold: Gold, distance: str) -> tuple[Gold, Gold]:
    return as_distance(result, distance, WHERE[0]), as_distance(gold, distance, WHERE[1])


def _undecided(gold: Gold, k: int) -> int:
    if gold.dists is None or k == gold.shape[1]:
        return 0
    return int(np.count_nonzero((gold.dists[:, -1] == gold.dists[:, k - 1]) & (gold.ids[:, -1] >= 0)))


def _set(ids: np.ndarray) -> set[int]:
    """Without what is no id."""
    return set(ids[ids >= 0].tolist())


def _mean(found: np.ndarray, true: np.ndarray) -> float:
    """The mean share; of a query without neighbours it is 1."""
    if np.all(true == true[0]) and true[0]:
        return int(found.sum()) / (int(true[0]) * len(true))  # rounded once
    return float(np.mean(np.where(true > 0, found / np.maximum(true, 1), 1.0)))


def _check(result: Gold, gold: Gold, k: int) -> int:
    widths = result.shape[1], gold.shape[1]
    if not isinstance(k, int | np.integer) or isinstance(k, bool):
        raise InputError(f"k = {k!r}: must be a whole number")
    if len(result) != len(gold):
        raise InputError(f"the result answers {len(result)} queries, the gold standard {len(gold)}")
    if len(gold) == 0:
        raise InputError("there are no queries in the gold standard")
    if not 1 <= k <= min(widths):
        raise InputError(
            f"k = {k}: the result has {widths[0]} neighbours for each query, the gold standard {widths[1]}"
        )
    return int(k)
