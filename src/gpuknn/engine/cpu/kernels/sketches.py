"""Differing bits of sketches."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import f4, types, u8
from numba.core import cgutils
from numba.extending import intrinsic

from gpuknn.engine.cpu.kernels.kernel import kernel


@intrinsic
def _popcount(typing_context: Any, word: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), build


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


@kernel(types.Array(u8, 2, "C", readonly=True), u8[:, :], f4[:, ::1])
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
