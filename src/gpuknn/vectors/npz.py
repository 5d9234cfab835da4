"""Vectors in NumPy's .npz files, which are zip archives of .npy files.

An array that `np.savez` wrote lies there as it is, and is read as any raw rows: the archive's checksum, which is one
of all rows, is not compared.  One of `np.savez_compressed` can be unpacked from its beginning only, a band of rows at a
time.
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpuknn.errors import InputError, in_our_words
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.npy import check_header, read_header_of
from gpuknn.vectors.raw import RawVectors, check_extent
from gpuknn.vectors.stream import PASSED_BYTES, Streams
from gpuknn.vectors.vectors import Vectors, choose_key
from gpuknn.vectors.written import Missing

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""Before a file in a zip archive (APPNOTE 4.3.7); the last two numbers are the lengths of its name and of extras."""
BAND_BYTES = 2**22
"""Of rows that are unpacked together."""
UNPACKING_BYTES = 2**21
"""What zipfile and zlib take for each thread, about."""


class Unpacked:
    """An array's rows, as they come out of the archive."""

    def __init__(self, path: str, key: str, where: str) -> None:
        self._where = where
        with in_our_words(f"{where}: cannot be read"):
            self._archive = zipfile.ZipFile(path)
            self._file = self._archive.open(f"{key}.npy")
            read_header_of(self._file)

    def fill(self, out: np.ndarray) -> None:
        """Fill `out` with the next rows; raises InputError if they cannot be unpacked."""
        view = out.reshape(-1).view(np.uint8).data
        with in_our_words(f"{self._where}: cannot be unpacked"):
            while view:
                got = self._file.readinto(view)  # type: ignore[attr-defined]
                if not got:
                    raise InputError(f"{self._where}: ends before its last row; the file is truncated")
                view = view[got:]

    def close(self) -> None:
        """Close the archive."""
        self._file.close()
        self._archive.close()


@dataclass(frozen=True)
class NpzVectors(DecodedVectors):
    """Rows that are compressed as a whole."""

    streams: Streams = field(default_factory=Streams, init=False, repr=False, compare=False)

    def band(self, row: int) -> range:
        """The rows that are unpacked together with `row`."""
        start = row - row % self._size
        return range(start, min(start + self._size, len(self)))

    def decoding_bytes(self, readers: int) -> int:
        """What unpacking takes for each thread, and what streams keep of bands that they have passed."""
        return readers * UNPACKING_BYTES + (PASSED_BYTES if readers > 1 else 0)

    def decode(self, rows: range, out: np.ndarray) -> None:
        """Take bands from the streams that come to them."""
        here = rows.start
        while here < rows.stop:
            band = self.band(here)
            into = out[here - rows.start :][: len(band)]
            self.streams.read(range(len(self)), band, self._size, into, self._begin)
            here = band.stop

    def _begin(self) -> Unpacked:
        return Unpacked(self.path, str(self.key), self.where)

    @property
    def _size(self) -> int:
        return max(1, BAND_BYTES // (self.shape[1] * self.dtype.itemsize))


def open_npz(path: Path, key: str | None, missing: Missing) -> Vectors:
    """Open an array of an .npz file; raises InputError if there is none that fits."""
    with _archive(path) as archive:
        there = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        if key is None:
            headers = {name: _header(archive, file) for name, file in there.items()}
            key = choose_key({name: (shape, dtype) for name, (shape, _, dtype, _) in headers.items()}, path)
        if key not in there:
            raise InputError(f"{path}: has no array {key!r}; it holds {', '.join(there) or 'no arrays'}")
        info, where = archive.getinfo(there[key]), f"{path}:{key}"
        shape, fortran_order, dtype, begin = _header(archive, there[key])
        kept = check_header(shape, fortran_order, dtype, where)
        if begin + shape[0] * shape[1] * kept.itemsize != info.file_size:
            raise InputError(
                f"{where}: has {info.file_size:,} bytes, not those of its {shape[0]:,} rows; it is damaged"
            )
        offset = _offset(path, info)
    described = str(path), key, (shape[0], shape[1]), kept
    stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
    rows = check_extent(RawVectors(*described, offset + begin), missing) if stored else NpzVectors(*described)
    return PackedBits.of(rows) if dtype == np.bool_ else rows


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    with archive.open(name) as file:
        return read_header_of(file)


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a file's content begins in the archive."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        *_, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    return int(info.header_offset + LOCAL_HEADER.size + name + extra)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with in_our_words(f"{path}: is not a readable .npz file"), zipfile.ZipFile(path) as archive:
        yield archive
