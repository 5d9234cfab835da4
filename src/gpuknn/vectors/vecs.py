"""Vectors in the files of the TEXMEX corpora and FAISS: .fvecs and .bvecs.

Each row is preceded by its number of components: int32 d, then d float32 or uint8, all little-endian.  Nothing says
which file it is but its suffix.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.raw import RawTarget, RawVectors
from gpuknn.vectors.vectors import LARGEST_ROW, Vectors, check_layout, refuse_key
from gpuknn.vectors.written import Missing, check_holes, written_advice

COMPONENTS = {".fvecs": "<f4", ".bvecs": "u1"}
PIECE_BYTES = 2**22
"""Of rows with their numbers, read at once: they are looked at and copied while the processor's cache holds them."""


@dataclass(frozen=True)
class VecsVectors(Vectors):
    """Rows with the number of components before each."""

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` piece by piece; raises InputError at a row that says it has another number of components."""
        n, d = self.shape
        record = np.dtype([("d", "<i4"), ("row", self.dtype, (d,))])
        records = RawVectors(self.path, None, (n, 1), record, 0)
        at_once = max(1, PIECE_BYTES // record.itemsize)
        for start in range(0, len(out), at_once):
            part = out[start : start + at_once]
            piece = records[first + start : first + start + len(part)][:, 0]
            odd = np.flatnonzero(piece["d"] != d)
            if len(odd):
                row, says = first + start + odd[0], piece["d"][odd[0]]
                raise InputError(
                    f"{self.where}: row {row} (counted from 0) says it has {says} components, row 0 has {d}"
                )
            part[...] = piece["row"]


def open_vecs(path: Path, key: str | None, missing: Missing) -> VecsVectors:
    """Open a file of this kind; raises InputError where its size is not that of rows as long as the first."""
    refuse_key(path, key)
    dtype = np.dtype(COMPONENTS[path.suffix.lower()])
    with open(path, "rb") as file:
        d = int.from_bytes(file.read(4), "little", signed=True)
    size = os.path.getsize(path)
    if size and d < 1:
        raise InputError(f"{path}: row 0 says it has {d} components; is the suffix right?")
    row_bytes = 4 + d * dtype.itemsize
    rows, left = divmod(size, row_bytes)
    if left:
        raise InputError(
            f"{path}: {size:,} bytes are no whole number of rows of {d} {dtype.name}, {row_bytes:,} bytes each; "
            "it is truncated, of another type, or its rows are not of equal length"
        )
    if row_bytes > LARGEST_ROW:
        raise InputError(f"{path}: row 0 says it has {d:,} components, too many to be read; is the suffix right?")
    check_layout((rows, d), dtype, str(path))
    if missing == "refuse":
        check_holes(str(path), str(path), range(rows), 0, row_bytes, written_advice())
    return VecsVectors(str(path), None, (rows, d), dtype)


def vecs_target(path: str, shape: tuple[int, int], dtype: np.dtype) -> RawTarget:
    """The writer of such a file."""
    return RawTarget(path, shape, dtype, prefix=np.array(shape[1], "<i4").tobytes())
