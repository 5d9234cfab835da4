"""The filter of 8-bit integers (`bound.py`, step 5): rounding to them, and selection by their sums."""

from typing import Any

import numpy as np
from numba import f4, f8, i1, i4, i8, njit

from gpuknn.engine.cpu.kernels.candidates import GROUP
from gpuknn.engine.cpu.kernels.kernel import REORDERED, ROWS, kernel
from gpuknn.engine.cpu.kernels.sums import value


@kernel(f4[:, ::1], f4[::1], f4[::1], f4, i1[:, ::1], f4[::1], f4[::1], f4[::1], f4[::1], options=REORDERED)
def quantise(
    rows: np.ndarray,
    centre: np.ndarray,
    direction: np.ndarray,
    most: Any,
    out: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    spread: np.ndarray,
    residual: np.ndarray,
) -> None:
    """Round v = rows[j] - centre to scale[j] * out[j], with whole numbers from -most to most; all in float32.

    offset[j] is direction.v; spread[j] is |v|, residual[j] the norm of what rounding left, as computed.
    """
    d = rows.shape[1]
    values = np.empty(d, np.float32)
    for j in range(len(rows)):
        largest, along, squares, left = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
        row, rounded = rows[j], out[j]
        for i in range(d):
            values[i] = row[i] - centre[i]
            squares += values[i] * values[i]
            along += direction[i] * values[i]
        for i in range(d):  # a loop of its own: with the sums in it, it does not become vectors
            largest = max(largest, abs(values[i]))
        step = largest / most
        inverse = np.float32(1.0) / step if step > 1e-30 else np.float32(0.0)  # what is smaller is residual
        for i in range(d):
            whole = min(most, max(-most, np.rint(values[i] * inverse)))
            rounded[i] = np.int8(whole)
            rest = values[i] - whole * step
            left += rest * rest
        scale[j], offset[j], spread[j], residual[j] = step, along, np.sqrt(squares), np.sqrt(left)


@kernel(
    *(i4[:, ::1], i8, f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], ROWS, f4[::1], f4[:, ::1]),
    *(i8, f4[::1], i8[::1], f4[::1], i8[::1], f4[:, ::1], i4[:, ::1], f8[::1]),
)
def select_coarse(
    sums: np.ndarray,
    start: int,
    row_scale: np.ndarray,
    row_offset: np.ndarray,
    coarse_bias: np.ndarray,
    tolerance: np.ndarray,
    query_scale: np.ndarray,
    query_offset: np.ndarray,
    rows: np.ndarray,
    row_factor: np.ndarray,
    queries: np.ndarray,
    first: int,
    bias: np.ndarray,
    itself: np.ndarray,
    threshold: np.ndarray,
    held: np.ndarray,
    score: np.ndarray,
    row: np.ndarray,
    smallest: np.ndarray,
) -> int:
    """`candidates.select` from sums of 8-bit integers (b, at least t); what passes is scored again in float32.

    Of the tile's rows (t,) float32: their scale and offset (`quantise`); `coarse_bias`, which makes these scores upper
    bounds; `tolerance`, how far a score may be from that of float32.  `query_scale` and `query_offset` (b,) likewise.
    rows (t, d) are the tile: float16 as stored, which takes half as long to fetch, or float32; row_factor (t,) float32,
    what they are still to be scaled by; queries (b, d) float32 are scaled.  smallest[1] is that of `sums.measure`.

    A few queries meet the tile's rows, a few rows at a time, before what has passed is looked at again in that order,
    so that the queries stay in a near cache.
    """
    b, t, most = len(queries), len(rows), 0
    unused = np.float32(1.0)
    scores = np.empty(t, np.float32)
    passed = np.empty(GROUP * t + 1, np.float32)
    passed_query, passed_row = np.empty(GROUP * t + 1, np.int64), np.empty(GROUP * t + 1, np.int64)
    for i0 in range(0, b, GROUP):
        i1, n = min(i0 + GROUP, b), 0
        for j0 in range(0, t, GROUP):
            j1 = min(j0 + GROUP, t)
            for i in range(i0, i1):
                line, limit, scale, offset, passing = (
                    sums[i],
                    threshold[i],
                    query_scale[i],
                    query_offset[i],
                    np.int32(0),
                )
                for j in range(j0, j1):
                    score_of_sum = np.float32(line[j]) * row_scale[j] * scale + (row_offset[j] + offset)
                    scores[j] = score_of_sum
                    passing |= np.int32(score_of_sum + coarse_bias[j] >= limit)
                if passing:
                    for j in range(j0, j1):
                        passed[n] = scores[j]
                        passed_query[n] = i
                        passed_row[n] = j
                        n += int(scores[j] + coarse_bias[j] >= limit)
        for c in range(n):
            i, j = passed_query[c], passed_row[c]
            fine = _float32_dot(rows, j, queries, i) * row_factor[j]
            unused = min(unused, np.float32(1.0) - abs(fine - passed[c]) / tolerance[j])
            upper = fine + bias[start + j]
            if upper >= threshold[i] and first + start + j != itself[i]:
                score[i, held[i]] = upper
                row[i, held[i]] = start + j
                held[i] += 1
        for i in range(i0, i1):
            most = max(most, held[i])
    smallest[1] = min(smallest[1], unused)
    return most


@njit(**REORDERED, no_cpython_wrapper=True)
def _float32_dot(rows: np.ndarray, j: int, queries: np.ndarray, i: int) -> Any:
    """Not inlined: the kernel that calls it must not be reordered."""
    row, total = rows[j], np.float32(0.0)
    for c in range(rows.shape[1]):
        total += np.float32(value(row, c)) * queries[i, c]
    return total
