"""Zarr arrays of which each file begins with its rows, one after another: uncompressed, of whole rows, in C order.

That a file is what the metadata say is found out when it is opened, from its size and, where it is a shard, from the
index at its end (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): 16 bytes for each inner
chunk, where it begins and how long it is, and a CRC-32C of them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec

from gpuknn.errors import InputError
from gpuknn.storage.durable import sync
from gpuknn.storage.location import Stored
from gpuknn.vectors.raw import RawVectors, write_all
from gpuknn.vectors.vectors import Vectors
from gpuknn.vectors.zarr_chunks import LEFT_OUT, by_rows, codecs, shard_index, sharding

LITTLE = BytesCodec(endian="little").to_dict()


@dataclass(frozen=True)
class RawZarrVectors(Vectors):
    """Rows read with `preadv` straight from the files of chunks or shards."""

    names: str
    """Files within the array's folder; {} is their number."""
    file_rows: int
    """Rows of each file; the last one may be used in part."""

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` from the files."""
        if not 0 <= first <= first + len(out) <= len(self):
            raise IndexError(f"rows {first} to {first + len(out)} of {len(self)}")
        while len(out):
            number, skipped = divmod(first, self.file_rows)
            part = out[: self.file_rows - skipped]
            try:
                self.file(number).read(skipped, part)
            except FileNotFoundError as error:
                rows = f"rows {first} to {first + len(part)}"
                raise InputError(f"{self.where}: {rows} cannot be read ({error.filename} is missing)") from error
            first, out = first + len(part), out[len(part) :]

    def file(self, number: int) -> RawVectors:
        """The rows that one file holds."""
        path = Path(self.path, self.key or "", self.names.format(number))
        rows = min(self.file_rows, len(self) - number * self.file_rows)
        return RawVectors(str(path), None, (rows, self.shape[1]), self.dtype, 0)


def raw_zarr(array: zarr.Array, path: Path, key: str | None) -> RawZarrVectors | None:
    """The array's rows past the library; None where its files are not simply rows.

    Raises InputError where a file is shorter than the metadata say, or a shard's index is damaged.
    """
    dtype = np.dtype(np.uint8 if array.dtype == np.bool_ else array.dtype)
    (n, d), (file_rows, width) = array.shape, array.shards or array.chunks
    if not by_rows(array) or not width == array.chunks[1] == d:
        return None
    if dtype.itemsize > 1 and any(codec.to_dict() != LITTLE for codec in codecs(array)):
        return None
    if dtype.newbyteorder("<") != dtype:  # as version 2 tells it
        return None
    # The name of a file is the metadata's to say; the number 7 occurs in no other part of it.
    names = array.metadata.encode_chunk_key((7, 0)).replace("7", "{}")
    vectors = RawZarrVectors(str(path), key, (n, d), dtype.newbyteorder("="), names, file_rows)
    files = map(vectors.file, range(-(-n // file_rows)))
    return vectors if all(_is_rows(array, file, file_rows) for file in files) else None


def write_shard(path: Path, blocks: Iterator[np.ndarray], used: int, chunks: int, chunk_bytes: int) -> None:
    """Bring a shard to disk: its rows, zeros to fill the last of the `used` chunks, and the index of all `chunks`.

    zarr-python would hold a shard three times in memory.
    """
    path.parent.mkdir(exist_ok=True)
    index = np.full((chunks, 2), LEFT_OUT, "<u8")
    index[:used, 0] = np.arange(used) * chunk_bytes
    index[:used, 1] = chunk_bytes
    tail = index.tobytes()
    tail += google_crc32c.value(tail).to_bytes(4, "little")
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)  # as long as the last time
    try:
        os.posix_fallocate(file, 0, used * chunk_bytes + len(tail))
        place = 0
        for block in blocks:
            place += write_all(file, block.reshape(-1).view(np.uint8).data, place)
        write_all(file, memoryview(tail), used * chunk_bytes)
        os.fsync(file)
    finally:
        os.close(file)
    sync(path.parent)


def _is_rows(array: zarr.Array, file: RawVectors, file_rows: int) -> bool:
    """Whether a chunk or shard begins with its rows; raises InputError if it is damaged."""
    row_bytes = file.nbytes // len(file)
    size = os.path.getsize(file.path)
    if array.shards is None:
        if size < file_rows * row_bytes:
            raise InputError(f"{file.path}: has {size:,} bytes of {file_rows * row_bytes:,}; copy or write it again")
        return size == file_rows * row_bytes
    folder, name = os.path.split(file.path)
    inner_rows = array.chunks[0]
    index = shard_index(folder, Stored(name, size, ""), sharding(array), (file_rows // inner_rows, 1))[:, 0]
    used, chunk_bytes = -(-len(file) // inner_rows), inner_rows * row_bytes
    begins = np.arange(used, dtype=np.uint64) * np.uint64(chunk_bytes)
    return bool(np.all(index[:used, 0] == begins) and np.all(index[:used, 1] == chunk_bytes))
