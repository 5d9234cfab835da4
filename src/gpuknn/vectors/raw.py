"""Rows that lie in a file one after another, read with `preadv` and written with `pwrite`, past any library."""

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError, RunError, option, same_again
from gpuknn.vectors.target import Target
from gpuknn.vectors.vectors import Vectors
from gpuknn.vectors.written import Missing, check_holes, written_advice

BEGIN_BYTES = 2**25
"""The system is asked to begin writing after so many bytes.  Without that, the disk waits until a piece is full and
then the piece waits for the disk: 1.3 to 2 times as long, measured."""
SYNC_FILE_RANGE_WRITE = 2
"""Of `linux/fs.h`."""
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


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
        rows = range(len(vectors))
        check_holes(vectors.path, vectors.where, rows, vectors.offset, row_bytes, written_advice())
    return vectors


@dataclass(frozen=True)
class RawTarget(Target):
    """A file of a header and rows; all its bytes have their place from the beginning."""

    header: bytes = b""
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
        begun = place
        try:
            for block in blocks:
                place += write_all(file, self._prefixed(block), place)
                if place - begun >= BEGIN_BYTES:
                    begin_writing(file, begun, place - begun)
                    begun = place
            os.fsync(file)
        finally:
            os.close(file)

    def finish(self, notes: Mapping[str, Any]) -> None:
        """The format has no attributes; only the size is left to check."""
        if os.path.getsize(self.path) != self.nbytes:
            raise RunError(f"{self.path}: was changed meanwhile; run {same_again()} with {option('fresh', True)}")

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


def begin_writing(file: int, place: int, size: int) -> None:
    """Have the system bring some bytes to disk while others are written; nobody waits.  Linux and glibc only."""
    if _sync_file_range:
        _sync_file_range(file, ctypes.c_int64(place), ctypes.c_int64(size), SYNC_FILE_RANGE_WRITE)


def write_all(file: int, data: memoryview, place: int) -> int:
    """Write to a place in a file, whatever number of calls that takes; the number of bytes."""
    size = len(data)
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written
    return size
