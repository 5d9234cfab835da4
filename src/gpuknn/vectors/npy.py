"""Vectors in NumPy's .npy files."""

import warnings
from pathlib import Path

import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.raw import RawVectors, check_extent
from gpuknn.vectors.source import check_layout, refuse_key


def open_npy(path: Path, key: str | None) -> RawVectors:
    """Open an .npy file in C order; raises InputError where it holds anything but vectors."""
    refuse_key(path, key)
    try:
        with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"format version {version}")
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read_header(file)
            offset = file.tell()
    except Exception as error:  # the header is Python source, and its parser raises what it likes
        raise InputError(f"{path}: is not a readable .npy file ({error})") from error
    check_layout(shape, dtype, str(path))
    if fortran_order:
        raise InputError(f"{path}: is in column order; save it again with np.ascontiguousarray")
    if not dtype.isnative:
        raise InputError(f"{path}: is big-endian; save it again in the machine's own byte order")
    return check_extent(RawVectors(str(path), None, (shape[0], shape[1]), dtype, offset))
