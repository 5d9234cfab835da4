"""The candidates of a block of queries: selected from scores, cut back, and the nearest of them kept.

Arrays of b queries; candidates of each (b, room + 1); `k` neighbours kept so far, ascending (distance, id):

    threshold   (b,) float32: upper bounds below it are out
    held        (b,) int64: how many candidates there are
    score, row  (b, room + 1) float32, int32: upper bounds of the scores; rows of the epoch, ascending
    dists, ids  (b, k) float64, int64: distances as stored, and their rows' ids
    filled      (b,) int64: how many of the k there are
    itself      (b,) int64: the query's own id, which is no neighbour of it; -1 if it has none
    to_score    (b, 3) float64: `bound.Filter.to_score`
    slack       (b,) float32: `bound.Filter.slack`
    bias        (m,) float32: of the epoch's rows; added to a row's scores, makes them upper bounds
"""

import numpy as np
from numba import boolean, f4, f8, i4, i8

from gpuknn.engine.cpu.kernels.kernel import kernel

GROUP = 64
"""Scores that are held against the threshold at once, in vectors, before a closer look."""


@kernel(f4[:, ::1], i8, i8, f4[::1], i8[::1], f4[::1], i8[::1], f4[:, ::1], i4[:, ::1])
def select(
    scores: np.ndarray,
    start: int,
    first: int,
    bias: np.ndarray,
    itself: np.ndarray,
    threshold: np.ndarray,
    held: np.ndarray,
    score: np.ndarray,
    row: np.ndarray,
) -> int:
    """Append the rows of a tile whose upper bound passes; there must be room for all.  Returns the most held.

    scores (b, t) float32, its first row `start` of the epoch, whose own first id is `first`.
    """
    b, t = scores.shape
    of_tile, most = bias[start : start + t], 0
    for i in range(b):
        line, n, limit = scores[i], held[i], threshold[i]
        own = itself[i] - first - start
        if 0 <= own < t:
            line[own] = np.nan  # which reaches no threshold
        for j0 in range(0, t, GROUP):
            j1, passing = min(j0 + GROUP, t), np.int32(0)
            for j in range(j0, j1):
                passing |= np.int32(line[j] + of_tile[j] >= limit)
            if passing:
                for j in range(j0, j1):  # without a branch: what does not pass is overwritten by the next
                    upper = line[j] + of_tile[j]
                    score[i, n] = upper
                    row[i, n] = start + j
                    n += int(upper >= limit)
        held[i] = n
        most = max(most, n)
    return most


@kernel(
    *(i8, f8[:, ::1], i8[::1], f8[:, ::1], f4[::1], f8, f4[::1], i8[::1], f4[:, ::1], i4[:, ::1], f4[::1]),
)
def cut(
    limit: int,
    dists: np.ndarray,
    filled: np.ndarray,
    to_score: np.ndarray,
    slack: np.ndarray,
    rounding: float,
    threshold: np.ndarray,
    held: np.ndarray,
    score: np.ndarray,
    row: np.ndarray,
    proven: np.ndarray,
) -> int:
    """Raise thresholds to what k rows are proven to reach and drop the candidates below; returns the most then held.

    Of queries with more than `limit` candidates; others stay as they are.
    Proven are the scores of the neighbours kept so far, and the candidates' upper bounds less `slack`: the k-th
    largest of them all is reached by k rows, ties of stored distances included (`bound.proven_score`, whose rounding
    is `rounding`).  `proven` (k + room,) float32 is room to work in.
    """
    k, most = dists.shape[1], 0
    for i in range(len(filled)):
        n, kept = held[i], filled[i]
        if n > limit:
            if kept + n >= k:
                zero, scale, margin, less = to_score[i, 0], to_score[i, 1], to_score[i, 2], slack[i]
                for j in range(kept):
                    reached = (zero - dists[i, j]) * scale
                    proven[j] = reached - (abs(reached) + abs(dists[i, j]) * scale) * rounding - margin
                for j in range(n):
                    proven[kept + j] = score[i, j] - less
                # The k-th largest by Hoare's FIND: np.partition takes seconds to compile.
                low, high, rank = 0, kept + n - 1, kept + n - k
                while low < high:
                    pivot = proven[(low + high) // 2]
                    a, b = low, high
                    while a <= b:
                        while proven[a] < pivot:
                            a += 1
                        while pivot < proven[b]:
                            b -= 1
                        if a <= b:
                            proven[a], proven[b] = proven[b], proven[a]
                            a += 1
                            b -= 1
                    if b < rank:
                        low = a
                    if rank < a:
                        high = b
                threshold[i] = max(threshold[i], proven[rank])
            left = 0
            for j in range(n):
                if score[i, j] >= threshold[i]:
                    score[i, left] = score[i, j]
                    row[i, left] = row[i, j]
                    left += 1
            held[i] = left
        most = max(most, held[i])
    return most


@kernel(
    *(i8, i8, i8, boolean, f8[:, ::1], i8[::1], i4[:, ::1], f8[:, ::1], i8[:, ::1], i8[::1], f8[:, ::1], i8[:, ::1]),
)
def keep(
    start: int,
    limit: int,
    first: int,
    single: bool,
    exact: np.ndarray,
    held: np.ndarray,
    row: np.ndarray,
    dists: np.ndarray,
    ids: np.ndarray,
    filled: np.ndarray,
    new_dists: np.ndarray,
    new_ids: np.ndarray,
) -> None:
    """Take candidates of exact distances into the state, and hold them no longer: those that `sums.measure` took.

    `exact[i]` are those of query start + i; `single`: they are stored as float32.  `new_dists` and `new_ids`
    (2, room + 1) are room to work in.
    """
    k = dists.shape[1]
    for i in range(start, min(start + len(exact), len(filled))):
        n, kept = held[i], filled[i]
        if n <= limit:
            continue
        held[i] = 0
        new = 0
        for c in range(n):
            dist = exact[i - start, c]
            if single:
                dist = np.float64(np.float32(dist))
            dist += 0.0  # -0.0 and 0.0 are one distance, stored as 0.0
            # Every id kept so far is lower, so at an equal distance the row kept stays ahead.
            if kept < k or dist < dists[i, k - 1]:
                new_dists[0, new], new_ids[0, new] = dist, first + row[i, c]
                new += 1
        # Sorted, stable: runs of 1, 2, 4, ... are merged from one room into the other.  np.argsort takes seconds to
        # compile.
        source, width = 0, 1
        while width < new:
            for run in range(0, new, 2 * width):
                a, b = run, run + width
                middle, stop = min(b, new), min(b + width, new)
                for place in range(run, stop):
                    earlier = b >= stop or (a < middle and new_dists[source, a] <= new_dists[source, b])
                    taken = a if earlier else b
                    new_dists[1 - source, place] = new_dists[source, taken]
                    new_ids[1 - source, place] = new_ids[source, taken]
                    a += int(earlier)
                    b += int(not earlier)
            source, width = 1 - source, 2 * width
        # Merged from the far end and in place; places from `total` on fall off the end.
        a, b, total = kept - 1, new - 1, min(k, kept + new)
        filled[i] = total
        while b >= 0:
            place, later = a + b + 1, a >= 0 and dists[i, a] > new_dists[source, b]
            if place < total:
                dists[i, place] = dists[i, a] if later else new_dists[source, b]
                ids[i, place] = ids[i, a] if later else new_ids[source, b]
            a -= int(later)
            b -= int(not later)
