"""The Numba kernels of the CPU device: sums in the documented order, widening, selection, refinement, merging.

Every kernel is single-threaded and releases the GIL: the device runs one per core (`device.py` says why).
float16 rows arrive as their bits, `uint16`, because Numba has no float16 arithmetic on the CPU.  All kernels are in
this one file, because Numba's cache notices a change of the calling kernel's file only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

# error_model="numpy": a division does not test for zero, so loops vectorise.  No fastmath where distances are made:
# the order of the additions is part of the answer.
OPTIONS = {"nogil": True, "error_model": "numpy"}


def kernel(function: Callable, **options: Any) -> Any:
    """Compile on first use; the result is kept for the next process where there is a folder to keep it in."""
    try:
        return njit(**OPTIONS, **options, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written to
        return njit(**OPTIONS, **options)(function)


def reordering_kernel(function: Callable) -> Any:
    """The same for sums that are no part of the answer: they may be added in any order, and hold no NaN."""
    return kernel(function, fastmath={"nnan", "nsz", "reassoc", "contract"})


# Metric, as the kernels know it: its place among the members of `metric.Metric`.
COSINE, IP, L2, HAMMING = range(4)

CACHE_LINE = 64
GROUP = 64
"""Scores that `select` holds against the threshold at once, counting in vectors, before it looks closer."""


@intrinsic
def _half_bits_to_double(typing_context: Any, bits: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.DoubleType())

    return types.float64(types.uint16), build


@intrinsic
def _popcount(typing_context: Any, word: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), build


def _value(x: Any) -> Any:
    """The float64 value of one stored component; all conversions are exact."""


@overload(_value)
def _value_overload(x: Any) -> Any:
    def from_half_bits(x: Any) -> Any:
        return _half_bits_to_double(x)

    def from_number(x: Any) -> Any:
        return np.float64(x)

    return from_half_bits if x == types.uint16 else from_number


def _eight_sums(term: Callable[[Any, Any, Any], Any]) -> Any:
    """An intrinsic (x, y, start, groups): eight running sums of term(x[i], y[i]), then added in pairs.

    Written as LLVM vectors, because no loop over eight scalars is turned into them reliably.
    """
    index, eight = ir.IntType(64), ir.VectorType(ir.DoubleType(), 8)

    @intrinsic
    def sums(typing_context: Any, x: Any, y: Any, start: Any, groups: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def load(array: Any, value: Any, group: Any) -> Any:
                place = builder.add(arguments[2], builder.mul(group, index(8)))
                pointer = builder.gep(context.make_array(array)(context, builder, value).data, [place])
                stored = ir.HalfType() if array.dtype == types.uint16 else context.get_value_type(array.dtype)
                vector = builder.load(builder.bitcast(pointer, ir.VectorType(stored, 8).as_pointer()))
                vector.align = array.dtype.bitwidth // 8
                if isinstance(stored, ir.DoubleType):
                    return vector
                if not isinstance(stored, ir.IntType):
                    return builder.fpext(vector, eight)
                return (builder.sitofp if array.dtype.signed else builder.uitofp)(vector, eight)

            def terms(group: Any) -> Any:
                return term(builder, load(x, arguments[0], group), load(y, arguments[1], group))

            first, entry = terms(index(0)), builder.block
            head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
            builder.branch(head)
            builder.position_at_end(head)
            group, total = builder.phi(index), builder.phi(eight)
            builder.cbranch(builder.icmp_signed("<", group, arguments[3]), body, done)
            builder.position_at_end(body)
            for phi, before, after in (
                (group, index(1), builder.add(group, index(1))),
                (total, first, builder.fadd(total, terms(group))),
            ):
                phi.add_incoming(before, entry)
                phi.add_incoming(after, body)
            builder.branch(head)
            builder.position_at_end(done)
            parts = [builder.extract_element(total, ir.IntType(32)(i)) for i in range(8)]
            while len(parts) > 1:
                parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            return parts[0]

        return types.float64(x, y, types.int64, types.int64), build

    return sums


_eight_products = _eight_sums(lambda builder, x, y: builder.fmul(x, y))


def _squared(builder: Any, x: Any) -> Any:
    return builder.fmul(x, x)


_eight_squared_differences = _eight_sums(lambda builder, x, y: _squared(builder, builder.fsub(x, y)))


@intrinsic
def _prefetch(typing_context: Any, row: Any) -> Any:
    """Ask for a row that is needed soon: candidates lie scattered over an epoch larger than any cache."""
    byte, number, index = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(row)(context, builder, arguments[0])
        start = builder.bitcast(array.data, byte)
        length = builder.mul(array.nitems, index(row.dtype.bitwidth // 8))
        call = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], call)
        with cgutils.for_range_slice(builder, index(0), length, index(CACHE_LINE)) as (offset, _):
            builder.call(prefetch, [builder.gep(start, [offset]), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.none(row), build


@register_jitable
def _sum_of_terms(
    squared_differences: bool, x: np.ndarray, y: np.ndarray, leaves: np.ndarray, stack: np.ndarray
) -> float:
    """The sum of x[i] y[i], or of (x[i] - y[i])^2, in the documented order: `metric.summation_leaves`."""
    depth = 0
    start = 0
    for leaf in range(len(leaves)):
        stop = leaves[leaf, 0]
        groups = (stop - start) // 8
        total = 0.0
        if groups > 0:
            if squared_differences:
                total = _eight_squared_differences(x, y, start, groups)
            else:
                total = _eight_products(x, y, start, groups)
        for i in range(start + groups * 8, stop):
            if squared_differences:
                difference = _value(x[i]) - _value(y[i])
                total += difference * difference
            else:
                total += _value(x[i]) * _value(y[i])
        stack[depth] = total
        depth += 1
        start = stop
        for _ in range(leaves[leaf, 1]):
            depth -= 1
            stack[depth - 1] += stack[depth]
    return stack[0]


def as_kernels_read(rows: np.ndarray) -> np.ndarray:
    """The same rows without a copy, float16 as its bits."""
    return rows.view(np.uint16) if rows.dtype == np.float16 else rows


@kernel
def squared_norms(rows: np.ndarray, leaves: np.ndarray, out: np.ndarray) -> None:
    """out[j] = |rows[j]|^2 in float64, summed in the documented order."""
    stack = np.empty(64)
    for j in range(len(rows)):
        out[j] = _sum_of_terms(False, rows[j], rows[j], leaves, stack)


@kernel
def widen(rows: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    """out[j] = float32(rows[j] * scale[j]); the product is rounded in float64, then to float32."""
    for j in range(len(rows)):
        row = rows[j]
        s = scale[j]
        for i in range(rows.shape[1]):
            out[j, i] = np.float32(_value(row[i]) * s)


@reordering_kernel
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


@intrinsic
def _scores_of_32_sketches(typing_context: Any, query: Any, rows: Any, start: Any, out: Any) -> Any:
    """out[start : start + 32] = -(differing bits of query (words,) and those columns of rows (words, n)).

    LLVM vectors of eight words, all sums in registers: one pass over the words for 32 rows.
    """
    index, eight = ir.IntType(64), ir.VectorType(ir.IntType(64), 8)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        query_array, row_array, out_array = (
            context.make_array(array)(context, builder, value)
            for array, value in ((query, arguments[0]), (rows, arguments[1]), (out, arguments[3]))
        )
        stride = builder.sdiv(cgutils.unpack_tuple(builder, row_array.strides)[0], index(8))
        count = cgutils.get_or_insert_function(builder.module, ir.FunctionType(eight, [eight]), "llvm.ctpop.v8i64")
        totals = [cgutils.alloca_once_value(builder, ir.Constant(eight, None)) for _ in range(4)]
        with cgutils.for_range(builder, query_array.nitems) as loop:
            same = builder.load(builder.gep(query_array.data, [loop.index]))
            first = builder.insert_element(ir.Constant(eight, ir.Undefined), same, ir.IntType(32)(0))
            broadcast = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), 8), None))
            for part, total in enumerate(totals):
                place = builder.add(builder.add(builder.mul(loop.index, stride), arguments[2]), index(8 * part))
                line = builder.bitcast(builder.gep(row_array.data, [place]), eight.as_pointer())
                columns = builder.load(line)
                columns.align = 8
                bits = builder.call(count, [builder.xor(columns, broadcast)])
                builder.store(builder.add(builder.load(total), bits), total)
        for part, total in enumerate(totals):
            scores = builder.fneg(builder.uitofp(builder.load(total), ir.VectorType(ir.FloatType(), 8)))
            place = builder.gep(out_array.data, [builder.add(arguments[2], index(8 * part))])
            builder.store(scores, builder.bitcast(place, scores.type.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.none(query, rows, types.int64, out), build


@kernel
def hamming_scores(queries: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """out[i, j] = -(number of bits in which queries[i] and the column rows[:, j] differ); exact in float32."""
    words, n = rows.shape
    whole = n - n % 32
    for i in range(len(queries)):
        for j in range(0, whole, 32):
            _scores_of_32_sketches(queries[i], rows, j, out[i])
        for j in range(whole, n):
            bits = np.uint64(0)
            for w in range(words):
                bits += _popcount(rows[w, j] ^ queries[i, w])
            out[i, j] = -np.float32(bits)


@register_jitable
def _distance(
    metric: int, row: np.ndarray, query: np.ndarray, norms: float, leaves: np.ndarray, stack: np.ndarray
) -> float:
    """The float64 distance as `metric.py` defines it; `norms` is |x|^2 |q|^2, for cosine."""
    total = _sum_of_terms(metric == L2, row, query, leaves, stack)
    if metric == L2:
        return total
    if metric == IP:
        return -total
    return 1.0 - total / np.sqrt(norms)


class Epoch(NamedTuple):
    """The rows in hand, as the kernels see them."""

    rows: np.ndarray  # (m, d) as stored (float16 as uint16)
    norms: np.ndarray  # (m,) float64: |x|^2
    bias: np.ndarray  # (m,) float32: added to a row's scores; makes them upper bounds
    error: np.ndarray  # (m,) float32: the proven error within the bias
    first: int  # the id of the first row


class Kept(NamedTuple):
    """A block of queries with the exact neighbours of the rows read so far; ascending (distance, id)."""

    queries: np.ndarray  # (b, d) float64
    norms: np.ndarray  # (b,) float64: |q|^2
    dists: np.ndarray  # (b, k) float64: distances as stored
    ids: np.ndarray  # (b, k) int64
    filled: np.ndarray  # (b,) int64: how many of the k there are
    floor: np.ndarray  # (b,) float64: no answer is farther than this
    itself: np.ndarray  # (b,) int64: the query's own id, which is no neighbour of it; -1 where it has none
    to_score: np.ndarray  # (b, 3) float64: `bound.Filter.to_score`
    slack: np.ndarray  # (b,) float32: `bound.Filter.slack`


class Found(NamedTuple):
    """Room for the candidates of one block; one per thread, used again for every block."""

    threshold: np.ndarray  # (b,) float32: upper bounds below it are out
    held: np.ndarray  # (b,) int64: how many candidates there are
    score: np.ndarray  # (b, room + 1) float32: upper bounds of the scores
    row: np.ndarray  # (b, room + 1) int32: rows of the epoch, ascending
    sums: np.ndarray  # (2,) float64: pairs refined; smallest share of the proven error left unused


class Rule(NamedTuple):
    """How distances are made."""

    metric: int
    single: bool  # stored as float32
    leaves: np.ndarray
    rounding: float  # bound.ROUNDING; an argument, because compiled kernels are cached without what they import


@register_jitable
def _proven_score(d: float, to_score: np.ndarray, rounding: float) -> Any:
    """The filter score that every row at a stored distance <= d reaches with its bias; see `bound.py`."""
    zero, scale, margin = to_score
    score = (zero - d) * scale
    return np.float32(score - (abs(score) + abs(d) * scale) * rounding - margin)


@kernel
def begin(kept: Kept, found: Found, rule: Rule) -> None:
    """Set the thresholds of a block from what is known before the epoch."""
    k = kept.dists.shape[1]
    for i in range(len(kept.filled)):
        limit = kept.floor[i]
        if kept.filled[i] == k:
            limit = min(limit, kept.dists[i, k - 1])
        found.threshold[i] = _proven_score(limit, kept.to_score[i], rule.rounding)
        found.held[i] = 0


@kernel
def select(scores: np.ndarray, start: int, epoch: Epoch, kept: Kept, found: Found, rule: Rule) -> None:
    """Append the rows of a tile (scores (b, t) float32, its first row `start`) whose upper bound passes."""
    b, t = scores.shape
    room = found.score.shape[1] - 1
    for i in range(b):
        line = scores[i]
        scores_found, rows_found = found.score[i], found.row[i]
        n, threshold = found.held[i], found.threshold[i]
        own = kept.itself[i] - epoch.first - start
        if 0 <= own < t:
            line[own] = -np.inf
        for j0 in range(0, t, GROUP):
            group = line[j0 : j0 + GROUP]
            bias = epoch.bias[start + j0 : start + j0 + len(group)]
            if _passing(group, bias, threshold) == 0:
                continue
            if n + len(group) > room:
                found.held[i] = n
                _make_room(i, epoch, kept, found, rule)
                n, threshold = found.held[i], found.threshold[i]
            for j in range(len(group)):  # without a branch: what does not pass is overwritten by the next
                score = group[j] + bias[j]
                scores_found[n] = score
                rows_found[n] = start + j0 + j
                n += 1 if score >= threshold else 0
        found.held[i] = n


class Coarse(NamedTuple):
    """How sums of 8-bit integers become scores (`bound.py`, step 5), for a block of queries and a tile of rows."""

    row_scale: np.ndarray  # (t,) float32
    row_offset: np.ndarray  # (t,) float32
    bias: np.ndarray  # (t,) float32: added to a row's scores, makes them upper bounds
    tolerance: np.ndarray  # (t,) float32: how far a score may be from that of float32
    query_scale: np.ndarray  # (b,) float32
    query_offset: np.ndarray  # (b,) float32
    rows: np.ndarray  # (t, d) the tile: float16 as stored, as uint16, which takes half as long to fetch; or float32
    row_factor: np.ndarray  # (t,) float32: what these rows are still to be scaled by
    queries: np.ndarray  # (b, d) float32: the block, scaled


@kernel
def select_coarse(
    sums: np.ndarray, start: int, coarse: Coarse, epoch: Epoch, kept: Kept, found: Found, rule: Rule
) -> None:
    """The same from sums of 8-bit integers (b, at least t); what passes is scored again in float32.

    A few queries meet the tile's rows, a few rows at a time, before what has passed is looked at again in that order,
    so that the queries stay in a near cache.
    """
    b, t = len(coarse.queries), len(coarse.rows)
    room, unused = found.score.shape[1] - 1, np.float32(1.0)
    score = np.empty(GROUP, np.float32)
    passed = np.empty(GROUP * t + 1, np.float32)
    query, row = np.empty(GROUP * t + 1, np.int32), np.empty(GROUP * t + 1, np.int32)
    for i0 in range(0, b, GROUP):
        n = 0
        for j0 in range(0, t, GROUP):
            group, j1 = score[: min(GROUP, t - j0)], min(j0 + GROUP, t)
            row_scale, row_offset, bias = coarse.row_scale[j0:j1], coarse.row_offset[j0:j1], coarse.bias[j0:j1]
            for i in range(i0, min(i0 + GROUP, b)):
                limit, scale, offset = found.threshold[i], coarse.query_scale[i], coarse.query_offset[i]
                _scores_of_sums(sums[i, j0:j1], row_scale, row_offset, scale, offset, group)
                if _passing(group, bias, limit) > 0:
                    for j in range(len(group)):
                        passed[n] = group[j]
                        query[n] = i
                        row[n] = j0 + j
                        n += 1 if group[j] + bias[j] >= limit else 0
        for c in range(n):
            i, j = query[c], row[c]
            fine = _float32_dot(coarse.rows, j, coarse.queries, i) * coarse.row_factor[j]
            unused = min(unused, np.float32(1.0) - abs(fine - passed[c]) / coarse.tolerance[j])
            upper = fine + epoch.bias[start + j]
            if upper >= found.threshold[i] and epoch.first + start + j != kept.itself[i]:
                if found.held[i] == room:
                    _make_room(i, epoch, kept, found, rule)
                held = found.held[i]
                found.score[i, held] = upper
                found.row[i, held] = start + j
                found.held[i] = held + 1
    found.sums[1] = min(found.sums[1], unused)


@register_jitable
def _scores_of_sums(
    sums: np.ndarray, row_scale: np.ndarray, row_offset: np.ndarray, scale: Any, offset: Any, out: np.ndarray
) -> None:
    for j in range(len(out)):
        out[j] = np.float32(sums[j]) * row_scale[j] * scale + (row_offset[j] + offset)


@reordering_kernel
def _float32_dot(rows: np.ndarray, j: int, queries: np.ndarray, i: int) -> Any:
    total = np.float32(0.0)
    for c in range(rows.shape[1]):
        total += np.float32(_value(rows[j, c])) * queries[i, c]
    return total


@register_jitable
def _passing(group: np.ndarray, bias: np.ndarray, threshold: Any) -> Any:
    """How many upper bounds reach the threshold."""
    passing = np.int32(0)
    for j in range(len(group)):
        passing += np.int32(1) if group[j] + bias[j] >= threshold else np.int32(0)
    return passing


@kernel
def finish(epoch: Epoch, kept: Kept, found: Found, rule: Rule) -> None:
    """At the end of an epoch: cut the candidates once more, refine what is left, keep the nearest."""
    for i in range(len(kept.filled)):
        if found.held[i] > 0:
            _cut(i, kept, found, rule)
            _refine(i, epoch, kept, found, rule)


@kernel
def _make_room(i: int, epoch: Epoch, kept: Kept, found: Found, rule: Rule) -> None:
    """Cut; where that leaves too many (ties by the thousand), refine them now: slower, never wrong."""
    _cut(i, kept, found, rule)
    k, room = kept.dists.shape[1], found.score.shape[1] - 1
    if found.held[i] > room - (room - k) // 2:
        _refine(i, epoch, kept, found, rule)
        if kept.filled[i] == k:
            limit = _proven_score(kept.dists[i, k - 1], kept.to_score[i], rule.rounding)
            found.threshold[i] = max(found.threshold[i], limit)


@kernel
def _cut(i: int, kept: Kept, found: Found, rule: Rule) -> None:
    """Raise query i's threshold to what k rows are proven to reach, and drop the candidates below it.

    Proven are the scores of the neighbours kept so far, and the candidates' upper bounds less `slack`: the
    k-th largest of them all is reached by k rows, ties of stored distances included (`bound.py`).
    """
    k, filled, n = kept.dists.shape[1], kept.filled[i], found.held[i]
    if filled + n >= k:
        proven = np.empty(filled + n, np.float32)
        for j in range(filled):
            proven[j] = _proven_score(kept.dists[i, j], kept.to_score[i], rule.rounding)
        for j in range(n):
            proven[filled + j] = found.score[i, j] - kept.slack[i]
        rank = filled + n - k
        found.threshold[i] = max(found.threshold[i], _ascending(proven, rank))
    left = 0
    for j in range(n):
        if found.score[i, j] >= found.threshold[i]:
            found.score[i, left] = found.score[i, j]
            found.row[i, left] = found.row[i, j]
            left += 1
    found.held[i] = left


@kernel
def _ascending(values: np.ndarray, rank: int) -> Any:
    """The value of that rank from below; reorders `values`.  Hoare's FIND: np.partition takes seconds to compile."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if j < rank:
            low = i
        if rank < i:
            high = j
    return values[rank]


@kernel
def _refine(i: int, epoch: Epoch, kept: Kept, found: Found, rule: Rule) -> None:
    """Take query i's candidates into the state by their exact distances; none are left."""
    k, n = kept.dists.shape[1], found.held[i]
    stack = np.empty(64)
    dists, ids = np.empty(n), np.empty(n, np.int64)
    zero, scale, margin = kept.to_score[i]
    nearer = 0
    for c in range(n):
        j = found.row[i, c]
        if epoch.first + j == kept.itself[i]:
            continue
        if rule.metric == HAMMING:
            dist = np.float64(epoch.bias[j] - found.score[i, c])
        else:
            if c + 1 < n:
                _prefetch(epoch.rows[found.row[i, c + 1]])
            norms = epoch.norms[j] * kept.norms[i]
            dist = _distance(rule.metric, epoch.rows[j], kept.queries[i], norms, rule.leaves, stack)
            off = abs(found.score[i, c] - (zero - dist) * scale - epoch.error[j])
            found.sums[1] = min(found.sums[1], 1.0 - max(0.0, off - margin) / epoch.error[j])
        if rule.single:
            dist = np.float64(np.float32(dist))
        dist += 0.0  # -0.0 and 0.0 are one distance, stored as 0.0
        # Every id kept so far is lower, so at an equal distance the row kept stays ahead.
        if kept.filled[i] < k or dist < kept.dists[i, k - 1]:
            dists[nearer] = dist
            ids[nearer] = epoch.first + j
            nearer += 1
    found.sums[0] += n
    found.held[i] = 0
    order = np.argsort(dists[:nearer], kind="mergesort")  # stable: ids ascend among equals
    _merge(i, dists, ids, order, kept)


@register_jitable
def _merge(i: int, dists: np.ndarray, ids: np.ndarray, order: np.ndarray, kept: Kept) -> None:
    """Merge the new rows, in `order`, into query i's neighbours, from the far end and in place."""
    k = kept.dists.shape[1]
    a, b = kept.filled[i] - 1, len(order) - 1
    total = min(k, a + b + 2)
    kept.filled[i] = total
    while b >= 0:
        new, place = order[b], a + b + 1  # places from `total` on fall off the end
        if a >= 0 and kept.dists[i, a] > dists[new]:
            if place < total:
                kept.dists[i, place] = kept.dists[i, a]
                kept.ids[i, place] = kept.ids[i, a]
            a -= 1
        else:
            if place < total:
                kept.dists[i, place] = dists[new]
                kept.ids[i, place] = ids[new]
            b -= 1


@kernel
def merge_two(
    ids: np.ndarray,
    dists: np.ndarray,
    later_ids: np.ndarray,
    later_dists: np.ndarray,
    out_ids: np.ndarray,
    out_dists: np.ndarray,
) -> None:
    """Fill out_ids and out_dists (nq, k) with the k nearest of both; of equal distances those of `ids` come first."""
    for i in range(len(out_ids)):
        a = b = 0
        for j in range(out_ids.shape[1]):
            if b == later_ids.shape[1] or (a < ids.shape[1] and dists[i, a] <= later_dists[i, b]):
                out_ids[i, j], out_dists[i, j] = ids[i, a], dists[i, a]
                a += 1
            else:
                out_ids[i, j], out_dists[i, j] = later_ids[i, b], later_dists[i, b]
                b += 1
