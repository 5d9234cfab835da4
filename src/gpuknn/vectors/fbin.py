"""Vectors in the files of big-ann-benchmarks and DiskANN: .fbin, .f16bin, .u8bin and .i8bin.

uint32 n, uint32 d, then n rows of d components, all little-endian.  Nothing says which file it is but its suffix.
"""

import os
import struct
from pathlib import Path

import numpy as np

from gpuknn.errors import InputError, option
from gpuknn.vectors.raw import RawTarget, RawVectors, check_extent
from gpuknn.vectors.vectors import check_layout, refuse_key
from gpuknn.vectors.written import Missing

COMPONENTS = {".fbin": "<f4", ".f16bin": "<f2", ".u8bin": "u1", ".i8bin": "i1"}
HEADER = struct.Struct("<II")


def open_fbin(path: Path, key: str | None, missing: Missing) -> RawVectors:
    """Open a file of this kind; raises InputError where its size is not what its header says."""
    refuse_key(path, key)
    dtype = np.dtype(COMPONENTS[path.suffix.lower()])
    with open(path, "rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise InputError(f"{path}: has no header; {path.suffix} files begin with the numbers of rows and components")
    shape = HEADER.unpack(header)
    check_layout(shape, dtype, str(path))
    vectors = check_extent(RawVectors(str(path), None, shape, dtype, HEADER.size), missing)
    left = os.path.getsize(path) - HEADER.size - vectors.nbytes
    if left:
        raise InputError(
            f"{path}: {left:,} bytes follow the {shape[0]:,} x {shape[1]:,} {dtype.name} of its header; "
            "is the suffix right?"
        )
    return vectors


def fbin_target(path: str, shape: tuple[int, int], dtype: np.dtype) -> RawTarget:
    """The writer of such a file; raises InputError if its rows or components are too many for the header."""
    if max(shape) >= 2**32:
        raise InputError(
            f"{option('to')}: .fbin files and their like hold less than 2^32 rows and components, "
            f"not {shape[0]:,} x {shape[1]:,}"
        )
    return RawTarget(path, shape, dtype, HEADER.pack(*shape))
