"""Zarr: one array, (row, component), at the root of a folder or of an object store's prefix.

Version 3 has shards of whole rows.  Uncompressed, a shard in a folder is written as what it is, the rows and an index
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): zarr-python would hold a shard three times in
memory.  Everything else goes through the library.  The metadata are written last: before that there is no store.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, Zstd  # type: ignore[import-untyped]
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import MemoryStore, StorePath

from gpuknn.errors import InputError, RunError, one_line
from gpuknn.jobs.convert.flat import write_all
from gpuknn.storage.durable import sync
from gpuknn.storage.location import is_url, listing, object_store
from gpuknn.vectors.target import Target
from gpuknn.vectors.zarr import store_of

CHUNK_BYTES = 24 * 2**20
"""Of an inner chunk, about: 16,384 rows of 768 float16, some tiles of the engine's; rows are a power of two."""
RAW_CHUNKS = 64
"""Of a shard written as it is: 1.5 GiB, so that the largest database is a hundred files."""
HELD_CHUNKS = 8
"""Of a shard that is put together in memory, to be compressed or sent: 192 MiB."""
FEW_SHARDS = 16
"""Smaller data have smaller shards, so that there are about so many and several writers have work."""
COMPRESSIONS = ("none", "zstd", "blosc")


@dataclass(frozen=True)
class Zarr(Target):
    """A store; `shard_rows` is a multiple of `chunk_rows`.  Version 2 has chunks only; shards are pieces of work."""

    chunk_rows: int
    shard_rows: int
    compression: str
    version: int

    @property
    def piece_rows(self) -> int:
        """A shard."""
        return self.shard_rows

    @property
    def piece_memory(self) -> int:
        """The rows, what zarr-python makes of its chunks, and the shard that it puts together."""
        return 0 if self._raw else 3 * self.shard_rows * self.shape[1] * self.dtype.itemsize

    def create(self) -> None:
        """Make the folder; in an object store remove what is to be replaced."""
        self.discard()
        if not is_url(self.path):
            Path(self.path, "c" if self.version == 3 else "").mkdir(parents=True)

    def discard(self) -> None:
        """Remove all objects, the metadata first; a folder is removed with the one it is in."""
        if not is_url(self.path):
            return
        names = [stored.name for stored in listing(self.path)]
        with _told(self.path):
            for some in ([name for name in names if "/" not in name], [name for name in names if "/" in name]):
                if some:
                    object_store(self.path).delete(some)

    def write(self, piece: range, blocks: Iterator[np.ndarray]) -> None:
        """Write one shard, or all chunks of a piece."""
        if self._raw:
            self._write_raw(piece, blocks)
            return
        rows = np.empty((len(piece), self.shape[1]), self.dtype)
        first = 0
        for block in blocks:
            rows[first : first + len(block)] = block
            first += len(block)
        array = self._array()
        array[piece.start : piece.stop] = rows
        if not is_url(self.path):
            step = self.shard_rows if self.version == 3 else self.chunk_rows
            for row in piece[::step]:
                _sync_file(Path(self.path, array.metadata.encode_chunk_key((row // step, 0))))

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Write the metadata."""
        if not is_url(self.path):
            for unfinished in Path(self.path).rglob("*.partial"):  # zarr-python's, if it was killed
                unfinished.unlink()
        with _told(self.path):
            array = self._array()
            missing = array.nchunks - array.nchunks_initialized
            if missing > 0:
                raise RunError(f"{self.path}: {missing} chunks have vanished; run the same command with --fresh")
            array.update_attributes({"gpuknn": dict(notes)})  # which writes all metadata, those of an earlier try, too
        if not is_url(self.path):
            for file in Path(self.path).iterdir():
                sync(file)
            sync(Path(self.path))

    @property
    def _raw(self) -> bool:
        return self.version == 3 and self.compression == "none" and not is_url(self.path)

    def _write_raw(self, piece: range, blocks: Iterator[np.ndarray]) -> None:
        """The rows, the last chunk filled up with zeros, and where each chunk begins and how long it is."""
        path = Path(self.path, f"c/{piece.start // self.shard_rows}/0")
        path.parent.mkdir(exist_ok=True)
        chunk_bytes = self.chunk_rows * self.shape[1] * self.dtype.itemsize
        used = -(-len(piece) // self.chunk_rows)
        index = np.full((self.shard_rows // self.chunk_rows, 2), np.iinfo(np.uint64).max, "<u8")
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

    def _described(self) -> dict[str, Any]:
        """What zarr-python is told of the array."""
        described: dict[str, Any] = {
            "shape": self.shape,
            "dtype": self.dtype,
            "chunks": (self.chunk_rows, self.shape[1]),
            "compressors": _compressors(self.compression, self.version, self.dtype.itemsize),
            "fill_value": 0,
            "zarr_format": self.version,
            "config": {"write_empty_chunks": True},
        }
        if self.version == 3:
            described |= {"shards": (self.shard_rows, self.shape[1]), "dimension_names": ("row", "component")}
        return described

    def _array(self) -> zarr.Array:
        """The array to write to; its metadata are not in the store."""
        plan = zarr.create_array(MemoryStore(), **self._described())
        place = StorePath(store_of(self.path))
        return zarr.Array(zarr.AsyncArray(plan.metadata, place, plan.config))


def zarr_target(
    path: str,
    shape: tuple[int, int],
    dtype: np.dtype,
    chunk_rows: int | None = None,
    shard_rows: int | None = None,
    compression: str = "none",
    version: int = 3,
) -> Zarr:
    """A store whose chunks and shards have the given rows, or such as the reader likes.

    Raises InputError where the rows of a shard are no multiple of those of a chunk.
    """
    n, row_bytes = shape[0], shape[1] * dtype.itemsize
    if chunk_rows is None:
        chunk_rows = min(n, shard_rows or n, 1 << max(0, (CHUNK_BYTES // row_bytes).bit_length() - 1))
        if shard_rows:
            chunk_rows = next(r for r in range(chunk_rows, 0, -1) if shard_rows % r == 0)
    if shard_rows is None:
        raw = compression == "none" and version == 3 and not is_url(path)
        chunks = -(-n // chunk_rows)
        shard_rows = chunk_rows * min(RAW_CHUNKS if raw else HELD_CHUNKS, -(-chunks // FEW_SHARDS))
    if shard_rows % chunk_rows:
        raise InputError(f"--shard-rows {shard_rows}: must be a multiple of a chunk's rows, {chunk_rows}")
    return Zarr(path, shape, dtype, chunk_rows, shard_rows, compression, version)


def _compressors(compression: str, version: int, itemsize: int) -> Any:
    """zarr-python's word for it; blosc shuffles bytes, without which it finds nothing in floats."""
    if compression == "zstd":
        return ZstdCodec(level=3) if version == 3 else Zstd(level=3)
    if compression == "blosc":
        if version == 2:
            return Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)
        return BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=itemsize)
    return None


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Raises RunError where an object store fails: its client's exceptions are of many kinds."""
    try:
        yield
    except (InputError, RunError, OSError):
        raise
    except Exception as error:
        raise RunError(f"{where}: {one_line(error)}; run the same command again") from error


def _sync_file(path: Path) -> None:
    sync(path)
    sync(path.parent)
