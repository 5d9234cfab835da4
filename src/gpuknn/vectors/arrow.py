"""Vectors in Arrow columns in memory: lists of numbers of one length, in one piece or several."""

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.in_memory import array_vectors
from gpuknn.vectors.parquet import layout
from gpuknn.vectors.parquet_rows import list_values
from gpuknn.vectors.vectors import Vectors, check_layout, choose_key


@dataclass(frozen=True)
class ArrowVectors(Vectors):
    """Rows of a column, where Arrow keeps them."""

    pieces: tuple[np.ndarray, ...] = field(kw_only=True, repr=False)
    """(m, d) each, none empty."""
    edges: tuple[int, ...] = field(kw_only=True, repr=False)
    """The first rows of the pieces, and the number of rows."""
    in_files = False

    def read(self, first: int, out: np.ndarray) -> None:
        """Copy the rows from `first` on into `out`."""
        here, end = first, first + len(out)
        while here < end:
            number = bisect_right(self.edges, here)
            stop = min(end, self.edges[number])
            out[here - first : stop - first] = self.pieces[number - 1][here - self.edges[number - 1] :][: stop - here]
            here = stop


def arrow_vectors(held: Any, name: str, single: bool) -> Vectors:
    """Take the rows of an array, a chunked array, or the only column of vectors of a table.

    `name`: what messages call it.  `single`: whether one row may come alone, as numbers.  Raises InputError if it holds
    no vectors, null, or rows of several lengths.
    """
    if hasattr(held, "column_names"):
        key = _choose_column(held, name)
        held, name = held.column(key), f"{name}:{key}"
    chunks = [_storage(chunk, name) for chunk in getattr(held, "chunks", [held]) if len(chunk)]
    shape, dtype = _layout(chunks[0].type if chunks else held.type, len(held))
    if dtype.kind == "O":
        raise InputError(f"{name}: holds {held.type}; vectors are lists of numbers of one length")
    if len(shape) == 1 and single:
        if held.null_count:
            raise InputError(f"{name}: has components that are null")
        return array_vectors(np.array(held), name, single)
    boolean = dtype == np.bool_
    if len(shape) == 2 and chunks and not shape[1]:
        shape = len(held), len(chunks[0][0].as_py() or ())
    check_layout(shape, np.dtype(np.uint8) if boolean else dtype, name)
    pieces = []
    edges = tuple(accumulate(map(len, chunks), initial=0))
    for first, lists in zip(edges, chunks, strict=False):
        values = list_values(lists, shape[1], name, first)
        pieces.append(values.view(np.uint8) if boolean else values)
    rows = ArrowVectors(name, None, (shape[0], shape[1]), pieces[0].dtype, pieces=tuple(pieces), edges=edges)
    return PackedBits.of(rows) if boolean else rows


def _choose_column(table: Any, name: str) -> str:
    """The only column of vectors, or of a known name; raises InputError if there is none or more than one."""
    try:
        return choose_key({column.name: _layout(column.type, table.num_rows) for column in table.schema}, name)
    except InputError as error:
        raise InputError(f'{error}; take the column out of the table, e.g. rows["emb"]') from error


def _storage(chunk: Any, name: str) -> Any:
    """The lists behind an extension type, such as a tensor in each row."""
    if not hasattr(chunk, "storage"):
        return chunk
    if len(getattr(chunk.type, "shape", (1,))) != 1:
        raise InputError(
            f"{name}: each row is a tensor of the shape {tuple(chunk.type.shape)}; vectors have one dimension"
        )
    return chunk.storage


def _layout(kind: Any, rows: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a column of that type, as `parquet.layout` tells them; also of booleans and tensors."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    shape, dtype = layout(kind, rows)
    return shape, np.dtype(np.bool_) if types.is_boolean(getattr(kind, "value_type", kind)) else dtype
