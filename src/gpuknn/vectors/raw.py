"""Rows that lie in a file one after another, read with `preadv` past any library."""

import os
from dataclasses import dataclass

import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.source import Vectors
from gpuknn.vectors.written import Missing, check_holes


@dataclass(frozen=True)
class RawVectors(Vectors):
    """Contiguous little-endian rows that begin at a byte of a file."""

    offset: int

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` from the file, without an intermediate copy."""
        if not 0 <= first <= first + len(out) <= len(self):
            raise IndexError(f"rows {first} to {first + len(out)} of {len(self)}")
        row_bytes = self.shape[1] * self.dtype.itemsize
        position = self.offset + first * row_bytes
        view = out.reshape(-1).view(np.uint8).data
        file = os.open(self.path, os.O_RDONLY)
        try:
            while view:
                got = os.preadv(file, [view], position)
                if got == 0:
                    row = (position - self.offset) // row_bytes
                    raise InputError(f"{self.where}: ends at row {row} of {len(self)}; the file is truncated")
                view, position = view[got:], position + got
        finally:
            os.close(file)


def check_extent(vectors: RawVectors, missing: Missing) -> RawVectors:
    """The same vectors; raises InputError if the file ends before its last row, or rows were never written."""
    have, need = os.path.getsize(vectors.path), vectors.offset + vectors.nbytes
    if have < need:
        raise InputError(f"{vectors.where}: {need:,} bytes are promised, {have:,} are there; the file is truncated")
    if missing == "refuse":
        row_bytes = vectors.shape[1] * vectors.dtype.itemsize
        check_holes(vectors.path, vectors.where, range(len(vectors)), vectors.offset, row_bytes)
    return vectors
