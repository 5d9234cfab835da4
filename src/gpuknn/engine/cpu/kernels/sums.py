"""Sums in the documented order (`metric.py`): squared norms and distances; and rows as float32.

float16 rows arrive as their bits, `uint16`, because Numba has no float16 arithmetic on the processor.
"""

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import f4, f8, i4, i8, types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuknn.engine.cpu.kernels.kernel import ROWS, kernel, processor_features

# Metric, as the kernels know it: its place among the members of `metric.Metric`.
COSINE, IP, L2 = range(3)

CACHE_LINE = 64
CONVERTS_HALVES = platform.machine() not in ("x86_64", "AMD64") or "f16c" in processor_features()
"""Whether this processor does; for others LLVM would call a function that nobody brings along."""


def _load(context: Any, builder: Any, array: tuple[Any, Any], place: Any, wide: Any) -> Any:
    """The float64 value of the array (its type, itself) at that place, or the eight from there on if `wide` is eight.

    All conversions are exact.
    """
    kind, values = array
    halves = kind.dtype == types.uint16
    one = ir.HalfType() if halves and CONVERTS_HALVES else context.get_value_type(kind.dtype)
    stored = _as_many(one, wide)
    pointer = builder.gep(context.make_array(kind)(context, builder, values).data, [place])
    value = builder.load(builder.bitcast(pointer, stored.as_pointer()))
    value.align = kind.dtype.bitwidth // 8
    if isinstance(one, ir.DoubleType):
        return value
    if not isinstance(one, ir.IntType):
        return builder.fpext(value, wide)
    if halves:
        return _from_bits(builder, value, wide)
    return (builder.sitofp if kind.dtype.signed else builder.uitofp)(value, wide)


def _from_bits(builder: Any, bits: Any, wide: Any) -> Any:
    """The float64 value of float16's bits, by arithmetic that every processor has.

    Exponent and fraction, moved 42 places to the left, are the float64 of 2^-1008 times the number, also of a subnormal
    one.
    """
    whole = _as_many(ir.IntType(64), wide)

    def constant(number: int | float) -> Any:
        kind = wide if isinstance(number, float) else whole
        return ir.Constant(kind, [number] * wide.count if isinstance(wide, ir.VectorType) else number)

    bits = builder.zext(bits, whole)
    moved = builder.shl(builder.and_(bits, constant(0x7FFF)), constant(42))
    finite = builder.bitcast(builder.fmul(builder.bitcast(moved, wide), constant(2.0**1008)), whole)
    exponent = constant(0x7C00)
    is_finite = builder.icmp_unsigned("!=", builder.and_(bits, exponent), exponent)
    magnitude = builder.select(is_finite, finite, builder.or_(moved, constant(0x7FF << 52)))
    sign = builder.shl(builder.and_(bits, constant(0x8000)), constant(48))
    return builder.bitcast(builder.or_(magnitude, sign), wide)


def _as_many(one: Any, wide: Any) -> Any:
    return ir.VectorType(one, wide.count) if isinstance(wide, ir.VectorType) else one


@intrinsic
def value(typing_context: Any, row: Any, place: Any) -> Any:
    """The float64 value of one component of a row."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(context, builder, (row, arguments[0]), arguments[1], ir.DoubleType())

    return types.float64(row, types.int64), build


@intrinsic
def _sum_of_terms(typing_context: Any, differences: Any, x: Any, y: Any, leaves: Any, stack: Any) -> Any:
    """The sum of x[i] y[i], or of (x[i] - y[i])^2, in the documented order: `metric.summation_leaves`.

    Written for LLVM, with vectors of eight running sums, because no loop over eight scalars is turned into them
    reliably; and because Numba takes ten times as long to compile the same in Python.
    """
    index, one, eight = ir.IntType(64), ir.DoubleType(), ir.VectorType(ir.DoubleType(), 8)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        ends = context.make_array(leaves)(context, builder, arguments[3])
        sums = context.make_array(stack)(context, builder, arguments[4]).data
        start, depth = (cgutils.alloca_once_value(builder, index(0)) for _ in range(2))
        group_total, total = cgutils.alloca_once(builder, eight), cgutils.alloca_once(builder, one)

        def add_terms(place: Any, wide: Any, sum_so_far: Any) -> None:
            left, right = (
                _load(context, builder, array, place, wide) for array in ((x, arguments[1]), (y, arguments[2]))
            )
            difference = builder.fsub(left, right)
            left, right = (builder.select(arguments[0], difference, factor) for factor in (left, right))
            builder.store(builder.fadd(builder.load(sum_so_far), builder.fmul(left, right)), sum_so_far)

        with cgutils.for_range(builder, cgutils.unpack_tuple(builder, ends.shape)[0]) as leaf:
            column = builder.mul(leaf.index, index(2))
            stop = builder.load(builder.gep(ends.data, [column]))
            additions = builder.load(builder.gep(ends.data, [builder.add(column, index(1))]))
            begin = builder.load(start)
            groups = builder.sdiv(builder.sub(stop, begin), index(8))
            builder.store(ir.Constant(eight, None), group_total)
            with cgutils.for_range(builder, groups) as group:
                add_terms(builder.add(begin, builder.mul(group.index, index(8))), eight, group_total)
            parts = [builder.extract_element(builder.load(group_total), ir.IntType(32)(i)) for i in range(8)]
            while len(parts) > 1:
                parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            builder.store(parts[0], total)
            with cgutils.for_range_slice(
                builder, builder.add(begin, builder.mul(groups, index(8))), stop, index(1)
            ) as (i, _):
                add_terms(i, one, total)
            builder.store(stop, start)
            top = builder.load(depth)
            builder.store(builder.load(total), builder.gep(sums, [top]))
            with cgutils.for_range(builder, additions) as addition:
                last = builder.gep(sums, [builder.sub(top, addition.index)])
                before = builder.gep(sums, [builder.sub(builder.sub(top, addition.index), index(1))])
                builder.store(builder.fadd(builder.load(before), builder.load(last)), before)
            builder.store(builder.add(builder.sub(top, additions), index(1)), depth)
        return builder.load(sums)

    return types.float64(types.boolean, x, y, leaves, stack), build


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


@kernel(ROWS, i8[:, ::1], f8[::1])
def squared_norms(rows: np.ndarray, leaves: np.ndarray, out: np.ndarray) -> None:
    """out[j] = |rows[j]|^2 in float64, summed in the documented order."""
    stack = np.empty(64)
    for j in range(len(rows)):
        out[j] = _sum_of_terms(False, rows[j], rows[j], leaves, stack)


@kernel(ROWS, f8[::1], f4[:, ::1])
def widen(rows: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    """out[j] = float32(rows[j] * scale[j]); the product is rounded in float64, then to float32."""
    for j in range(len(rows)):
        row = rows[j]
        for i in range(rows.shape[1]):
            out[j, i] = np.float32(value(row, i) * scale[j])


@kernel(
    *(i8, ROWS, f8[::1], f4[::1], i8[:, ::1], types.Array(f8, 2, "C", readonly=True), f8[::1], f8[:, ::1]),
    *(i8, i8, i8[::1], f4[:, ::1], i4[:, ::1], f8[:, ::1], f8[::1]),
)
def measure(
    metric: int,
    rows: np.ndarray,
    norms: np.ndarray,
    error: np.ndarray,
    leaves: np.ndarray,
    queries: np.ndarray,
    query_norms: np.ndarray,
    to_score: np.ndarray,
    start: int,
    limit: int,
    held: np.ndarray,
    score: np.ndarray,
    row: np.ndarray,
    dists: np.ndarray,
    sums: np.ndarray,
) -> None:
    """The exact distances, as `metric.py` defines them, of candidates.

    dists[i] (chunk, room + 1) float64 are those of query start + i, if it has more than `limit` candidates.  sums[0]
    counts pairs; sums[1] is the smallest share of the proven error that the scores left unused.
    """
    stack = np.empty(64)
    stop = min(start + len(dists), len(queries))
    smallest = sums[1]
    for i in range(start, stop):
        n = held[i] if held[i] > limit else 0
        zero, scale, margin = to_score[i, 0], to_score[i, 1], to_score[i, 2]
        sums[0] += n
        for c in range(n):
            j = np.int64(row[i, c])
            if c + 1 < n:
                _prefetch(rows[row[i, c + 1]])
            dist = _sum_of_terms(metric == L2, rows[j], queries[i], leaves, stack)
            if metric == IP:
                dist = -dist
            elif metric == COSINE:
                dist = 1.0 - dist / np.sqrt(norms[j] * query_norms[i])
            dists[i - start, c] = dist
            off = abs(score[i, c] - (zero - dist) * scale - error[j])
            smallest = min(smallest, 1.0 - max(0.0, off - margin) / error[j])
    sums[1] = smallest
