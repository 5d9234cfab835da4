"""Vectors in Dask arrays: the rows of a chunk are computed when they are read, and never all rows at once.

Dask computes them, on its default client if the program has one.  Nothing here imports Dask.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from gpuknn.errors import InputError, in_our_words
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.in_memory import check_type
from gpuknn.vectors.vectors import Vectors, check_layout


@dataclass(frozen=True)
class DaskVectors(DecodedVectors):
    """Rows that Dask computes, by the chunks side by side that hold them."""

    array: Any = field(kw_only=True, repr=False)
    edges: tuple[int, ...] = field(kw_only=True, repr=False)
    """The first rows of the chunks, and the number of rows."""
    in_files = False

    def band(self, row: int) -> range:
        """The rows of the chunks that hold `row`."""
        number = bisect_right(self.edges, row)
        return range(self.edges[number - 1], self.edges[number])

    @property
    def band_rows(self) -> int:
        """Rows of the largest chunks."""
        return int(np.diff(self.edges).max())

    def decoding_bytes(self, readers: int) -> int:
        """The chunks that are computed, before they are copied; what computing them takes nobody knows."""
        return readers * self.band_bytes

    def decode(self, rows: range, out: np.ndarray) -> None:
        """Compute the rows; raises InputError if that fails, or gives other values than the array promises."""
        part = self.array[rows.start : rows.stop]
        with in_our_words(f"{self.where}: rows {rows.start} to {rows.stop} could not be computed"):
            found = part.compute()
            if np.ma.is_masked(found):
                raise InputError(f"{self.where}: rows {rows.start} to {rows.stop} have masked entries; fill them")
            found = np.asarray(found)
        if found.shape != out.shape or found.dtype.newbyteorder("=") != part.dtype.newbyteorder("="):
            raise InputError(
                f"{self.where}: rows {rows.start} to {rows.stop} were computed as {found.shape} {found.dtype}; the "
                f"array promises {out.shape} {part.dtype}; say dtype= and chunks= to what makes the array"
            )
        out[...] = found


def dask_vectors(array: Any, name: str) -> Vectors:
    """Take the rows of a Dask array; raises InputError if they are no vectors, or their number is not known."""
    if any(math.isnan(length) for length in array.shape):
        raise InputError(f"{name}: the lengths of its chunks are not known; call rows.compute_chunk_sizes() before")
    boolean = array.dtype == np.bool_
    kept = np.dtype(np.uint8) if boolean else array.dtype
    check_type(kept, name)
    check_layout(array.shape, kept, name)
    edges = tuple(accumulate(array.chunks[0], initial=0))
    rows = DaskVectors(name, None, array.shape, kept.newbyteorder("="), array=array, edges=edges)
    return PackedBits.of(rows) if boolean else rows
