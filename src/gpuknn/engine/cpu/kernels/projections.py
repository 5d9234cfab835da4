"""Rows of unit length, as projections take them (`engine/projecting.py` says what they are), and bits of sketches."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import f4, f8, i8, types, u8
from numba.core import cgutils
from numba.extending import intrinsic

from gpuknn.engine.cpu.kernels.kernel import ROWS, kernel
from gpuknn.engine.cpu.kernels.sums import CONVERTS_HALVES, _as_many, _load, _sum_of_terms, value

GRID = 2.0**24
"""Components of a row of unit length are multiples of 1 / GRID."""
SURELY_FITS = 100.0
"""A sum that is about as large as that, or less, is below 128."""
ONE = ir.FloatType() if CONVERTS_HALVES else ir.DoubleType()
"""What products of two float16 numbers, which it holds exactly, are made in."""
EIGHT = ir.VectorType(ONE, 8)


def _rounded(builder: Any, x: Any, wide: Any) -> Any:
    """The float16 nearest to x, of type `wide`: the number of 11 bits, or a multiple of 2^-24; never infinity."""
    if wide in (ir.FloatType(), ir.VectorType(ir.FloatType(), 8)):
        return builder.fpext(builder.fptrunc(x, _as_many(ir.HalfType(), wide)), wide)
    whole = _as_many(ir.IntType(64), wide)

    def constant(number: int) -> Any:
        return ir.Constant(whole, [number] * wide.count if isinstance(wide, ir.VectorType) else number)

    def power(exponent: Any) -> Any:
        return builder.bitcast(builder.shl(exponent, constant(52)), wide)

    exponent = builder.and_(builder.lshr(builder.bitcast(x, whole), constant(52)), constant(0x7FF))
    least = constant(1023 - 14)
    exponent = builder.select(builder.icmp_signed("<", exponent, least), least, exponent)
    # 10 bits before the point are left of the number, in (1, 2) or less, times 2^10.
    name = f"llvm.rint.{'v8' if isinstance(wide, ir.VectorType) else ''}f64"
    rint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(wide, [wide]), name)
    large = builder.call(rint, [builder.fmul(x, power(builder.sub(constant(2 * 1023 + 10), exponent)))])
    return builder.fmul(large, power(builder.sub(exponent, constant(10))))


def _each(builder: Any, length: Any, work: Callable[[Any, Any], None]) -> None:
    """Have `work` write code for eight components at a time, and then for one."""
    index = ir.IntType(64)
    whole = builder.mul(builder.sdiv(length, index(8)), index(8))
    with cgutils.for_range_slice(builder, index(0), whole, index(8)) as (place, _):
        work(place, EIGHT)
    with cgutils.for_range_slice(builder, whole, length, index(1)) as (place, _):
        work(place, ONE)


def _as_one(builder: Any, number: Any, wide: Any) -> Any:
    """A float64 number as `wide`."""
    number = number if ir.DoubleType() == ONE else builder.fptrunc(number, ONE)
    if wide == ONE:
        return number
    first = builder.insert_element(ir.Constant(wide, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), 8), None))


def _as_double(builder: Any, x: Any, wide: Any) -> Any:
    return x if ir.DoubleType() == ONE else builder.fpext(x, _as_many(ir.DoubleType(), wide))


def _length(context: Any, builder: Any, kind: Any, row: Any) -> Any:
    return cgutils.unpack_tuple(builder, context.make_array(kind)(context, builder, row).shape)[0]


@intrinsic
def _nearest_half(typing_context: Any, x: Any) -> Any:
    """The float16 nearest to a float64, rounded once."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _rounded(builder, arguments[0], ir.DoubleType())

    return types.float64(types.float64), build


@intrinsic
def _sum_of_rounded_squares(typing_context: Any, row: Any, scale: Any) -> Any:
    """The sum of float16((row[i] scale)^2), exact if it is below 64; if it is 128 or more, or no number, infinity.

    The squares are multiples of 2^-24.  As whole numbers they are added in 32 bits, in any order, which takes half as
    long as to add float64.  These hold a sum below 128.  A second sum, which rounds, tells whether it is: for 2^18
    components that sum is off by less than a hundredth.
    """
    whole, double = ir.IntType(32), ir.DoubleType()

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        totals = {
            (wide, kind): cgutils.alloca_once_value(builder, ir.Constant(_as_many(kind, wide), zero))
            for wide in (EIGHT, ONE)
            for kind, zero in ((whole, None if wide == EIGHT else 0), (ONE, None if wide == EIGHT else 0.0))
        }

        def add(place: Any, wide: Any) -> None:
            x = _load(context, builder, (row, arguments[0]), place, wide)
            x = builder.fmul(x, _as_one(builder, arguments[1], wide))
            square = _rounded(builder, builder.fmul(x, x), wide)
            scaled = builder.fmul(square, ir.Constant(wide, [GRID] * 8 if wide == EIGHT else GRID))
            added, rounded = totals[wide, whole], totals[wide, ONE]
            number = builder.fptosi(scaled, _as_many(whole, wide))
            builder.store(builder.add(builder.load(added), number), added)
            builder.store(builder.fadd(builder.load(rounded), square), rounded)

        _each(builder, _length(context, builder, row, arguments[0]), add)
        exact, about = builder.load(totals[ONE, whole]), builder.load(totals[ONE, ONE])
        for lane in range(8):
            place = ir.IntType(32)(lane)
            exact = builder.add(exact, builder.extract_element(builder.load(totals[EIGHT, whole]), place))
            about = builder.fadd(about, builder.extract_element(builder.load(totals[EIGHT, ONE]), place))
        fits = builder.fcmp_ordered("<", about, ir.Constant(ONE, SURELY_FITS))
        total = builder.fmul(builder.sitofp(exact, double), ir.Constant(double, 1.0 / GRID))
        return builder.select(fits, total, ir.Constant(double, float("inf")))

    return types.float64(row, types.float64), build


@intrinsic
def _put_rounded(typing_context: Any, row: Any, scale: Any, factor: Any, out: Any) -> Any:
    """out[i] = float16(row[i] scale factor), of which the first product is exact."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(out)(context, builder, arguments[3]).data

        def put(place: Any, wide: Any) -> None:
            x = _load(context, builder, (row, arguments[0]), place, wide)
            for number in arguments[1:3]:
                x = builder.fmul(x, _as_one(builder, number, wide))
            y = _as_double(builder, _rounded(builder, x, wide), wide)
            builder.store(y, builder.bitcast(builder.gep(data, [place]), y.type.as_pointer())).align = 8

        _each(builder, _length(context, builder, row, arguments[0]), put)
        return context.get_dummy_value()

    return types.none(row, types.float64, types.float64, out), build


@kernel(ROWS, f8[::1], f8[::1], f8[:, ::1])
def unit_halves(rows: np.ndarray, scale: np.ndarray, norms: np.ndarray, out: np.ndarray) -> None:
    """out[j] = rows[j] scale[j], float16, divided by its length in float16 arithmetic; `scale`: powers of two.

    norms[j]: the sum of squares that the length is the root of, as `_sum_of_rounded_squares` gives it.
    """
    for j in range(len(rows)):
        norms[j] = _sum_of_rounded_squares(rows[j], scale[j])
        _put_rounded(rows[j], scale[j], _nearest_half(1.0 / _nearest_half(np.sqrt(norms[j]))), out[j])


@kernel(ROWS, f8[::1], f8[:, ::1])
def unit_rows(rows: np.ndarray, factor: np.ndarray, out: np.ndarray) -> None:
    """out[j] = rows[j] factor[j], rounded to whole numbers, / GRID."""
    for j in range(len(rows)):
        row = rows[j]
        for i in range(rows.shape[1]):
            out[j, i] = np.rint(value(row, i) * factor[j]) * (1.0 / GRID)


@kernel(
    *(ROWS, types.Array(f4, 2, "C", readonly=True), f4[:, ::1], f4, i8[:, ::1], types.boolean, u8[:, ::1]),
)
def compare_references(
    rows: np.ndarray,
    references: np.ndarray,
    scores: np.ndarray,
    sure: float,
    leaves: np.ndarray,
    single: bool,
    out: np.ndarray,
) -> None:
    """Bit i of word w of out[j] (m, words): whether rows[j] is nearer to reference 64 w + i than to the one after it.

    `scores` (m, references) float32: two that differ by more than `sure` tell; others are computed again, in float64.
    `single`: distances are compared as float32 holds them.
    """
    stack, apart = np.empty(64), np.empty(64, np.float32)
    for j in range(len(rows)):
        for w in range(out.shape[1]):
            score = scores[j, 64 * w : 64 * w + 64]
            for i in range(63):
                apart[i] = score[i] - score[i + 1]
            apart[63] = score[63] - score[0]
            word, unsure = np.uint64(0), 0
            for i in range(64):
                word |= np.uint64(apart[i] > 0) << np.uint64(i)
            for i in range(64):
                unsure += not abs(apart[i]) > sure
            if unsure:
                for i in range(64):
                    if not abs(apart[i]) > sure:
                        here, after = references[64 * w + i], references[64 * w + (i + 1) % 64]
                        x = _sum_of_terms(False, rows[j], here, leaves, stack)
                        y = _sum_of_terms(False, rows[j], after, leaves, stack)
                        nearer = np.float32(1.0 - x) < np.float32(1.0 - y) if single else x > y
                        word &= ~(np.uint64(1) << np.uint64(i))
                        word |= np.uint64(nearer) << np.uint64(i)
            out[j, w] = word
