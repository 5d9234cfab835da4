"""Vectors in NumPy's .npy files."""

import io
import warnings
from pathlib import Path
from typing import IO

import numpy as np

from gpuknn.errors import InputError, in_our_words
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.raw import RawTarget, RawVectors, check_extent
from gpuknn.vectors.vectors import Vectors, check_layout, refuse_key
from gpuknn.vectors.written import Missing


def open_npy(path: Path, key: str | None, missing: Missing) -> Vectors:
    """Open an .npy file in C order; raises InputError if it holds anything but vectors."""
    refuse_key(path, key)
    shape, fortran_order, dtype, offset = read_header(path)
    kept = check_header(shape, fortran_order, dtype, str(path))
    rows = check_extent(RawVectors(str(path), None, (shape[0], shape[1]), kept, offset), missing)
    return PackedBits.of(rows) if dtype == np.bool_ else rows


def read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, dtype, and where the content begins; raises InputError if it is no .npy."""
    with in_our_words(f"{path}: is not a readable .npy file"), open(path, "rb") as file:
        return read_header_of(file)


def read_header_of(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """The same of an open file, which then is where the content begins; raises ValueError and others."""
    with warnings.catch_warnings(action="ignore"):  # the header is Python source
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
        return shape, fortran_order, dtype, file.tell()


def check_header(shape: tuple[int, ...], fortran_order: bool, dtype: np.dtype, where: str) -> np.dtype:
    """The type of the rows, uint8 for booleans; raises InputError if an array with this header is no set of vectors."""
    kept = np.dtype(np.uint8) if dtype == np.bool_ else dtype
    check_layout(shape, kept, where)
    if fortran_order:
        raise InputError(f"{where}: is in column order; save it again with np.ascontiguousarray")
    if not dtype.isnative:
        raise InputError(f"{where}: is big-endian; save it again in the machine's own byte order")
    return kept


def npy_target(path: str, shape: tuple[int, int], dtype: np.dtype) -> RawTarget:
    """The writer of an .npy file."""
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return RawTarget(path, shape, dtype, header.getvalue())
