"""Files that are a header and rows one after another: .npy, .fbin and its like, .fvecs and .bvecs."""

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError, RunError
from gpuknn.vectors.target import Target


@dataclass(frozen=True)
class Flat(Target):
    """Such a file; all its bytes have their place from the beginning."""

    header: bytes
    prefix: bytes = b""
    """Before each row."""

    @property
    def nbytes(self) -> int:
        """Of the whole file."""
        return len(self.header) + self.shape[0] * self._row_bytes

    def create(self) -> None:
        """Write the header and reserve the room: a disk that is too small is found here."""
        with open(self.path, "wb") as file:
            file.write(self.header)
        reserve(self.path, self.nbytes)

    def write(self, piece: range, blocks: Iterator[np.ndarray]) -> None:
        """Write rows where they belong."""
        place = self._offset() + piece.start * self._row_bytes
        file = os.open(self.path, os.O_WRONLY)
        try:
            for block in blocks:
                place += write_all(file, self._prefixed(block), place)
            os.fsync(file)
        finally:
            os.close(file)

    def finish(self, notes: Mapping[str, Any]) -> None:
        """The format has no attributes; only the size is left to check."""
        if os.path.getsize(self.path) != self.nbytes:
            raise RunError(f"{self.path}: was changed meanwhile; run the same command with --fresh")

    @property
    def _row_bytes(self) -> int:
        return len(self.prefix) + self.shape[1] * self.dtype.itemsize

    def _offset(self) -> int:
        return len(self.header)

    def _prefixed(self, block: np.ndarray) -> memoryview:
        data = block.reshape(len(block), -1).view(np.uint8)
        if self.prefix:
            ahead = np.broadcast_to(np.frombuffer(self.prefix, np.uint8), (len(block), len(self.prefix)))
            data = np.hstack([ahead, data])
        return data.reshape(-1).data


def npy_target(path: str, shape: tuple[int, int], dtype: np.dtype) -> Flat:
    """NumPy's own format."""
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return Flat(path, shape, dtype, header.getvalue())


def bin_target(path: str, shape: tuple[int, int], dtype: np.dtype) -> Flat:
    """big-ann-benchmarks': n and d as uint32, then the rows; raises InputError where they do not fit in 32 bits."""
    if max(shape) >= 2**32:
        raise InputError(
            f"--to: .fbin files and their like hold less than 2^32 rows and components, not {shape[0]:,} x {shape[1]:,}"
        )
    return Flat(path, shape, dtype, np.array(shape, "<u4").tobytes())


def vecs_target(path: str, shape: tuple[int, int], dtype: np.dtype) -> Flat:
    """TEXMEX's: before each row d as int32."""
    return Flat(path, shape, dtype, b"", np.array(shape[1], "<i4").tobytes())


def reserve(path: str, size: int) -> None:
    """Give a file its final size and room on disk; where there is none it is removed, and OSError raised."""
    file = os.open(path, os.O_WRONLY)
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        Path(path).unlink()  # what could be had would fill the disk
        raise OSError(error.errno, f"{error.strerror}: {size / 2**20:,.0f} MiB are needed", path) from error
    finally:
        os.close(file)


def write_all(file: int, data: memoryview, place: int) -> int:
    """Write to a place in a file, whatever number of calls that takes; the number of bytes."""
    size = len(data)
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written
    return size
