"""Vectors in Zarr arrays, v2 and v3, in folders and object stores.

Uncompressed chunks and shards of whole rows are read past the library (`zarr_raw.py`), and such shards are written past
it; all others go through it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Condition, Lock
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc, Zstd  # type: ignore[import-untyped]
from zarr.abc.store import Store
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore, ObjectStore, StorePath

from gpuknn.errors import InputError, RunError, in_our_words, one_line, option, same_again
from gpuknn.storage.durable import sync
from gpuknn.storage.location import is_url, listing, object_store
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.ids import IDS_AT_ONCE, RowIds, choose_ids, id_advice, regrouped
from gpuknn.vectors.target import Target
from gpuknn.vectors.vectors import Vectors, check_layout, choose_key
from gpuknn.vectors.written import Missing
from gpuknn.vectors.zarr_chunks import missing_chunks, unwritten
from gpuknn.vectors.zarr_raw import raw_zarr, write_shard

AT_ONCE = 2**27
"""Bytes of rows that are decoded at once by all threads, if a chunk is not larger: zarr-python would decode ten chunks
for each thread, and all that are asked for of a shard."""
CHUNK_BYTES = 24 * 2**20
"""Of an inner chunk, about: 16,384 rows of 768 float16, some tiles of the engine's; rows are a power of two."""
RAW_CHUNKS = 64
"""Of a shard written as it is: 1.5 GiB, so that the largest database is a hundred files."""
HELD_CHUNKS = 8
"""Of a shard that is put together in memory, to be compressed or sent: 192 MiB."""
FEW_SHARDS = 16
"""Smaller data have smaller shards, so that there are about so many and several writers have work."""
LEAN = {"Zstd", "Blosc", "LZ4", "Crc32c", "CRC32C"}
"""Codecs that unpack into memory of the right size; others, as gzip, grow it: four times the rows, measured."""


class Room:
    """Bytes that threads take and give back; those that find too few wait, in order."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._turn, self._freed = Lock(), Condition()

    @contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Take `size` bytes meanwhile; all there are where it is more."""
        with self._turn, self._freed:
            self._freed.wait_for(lambda: not self._taken or self._taken + size <= self._most)
            self._taken += size
        try:
            yield
        finally:
            with self._freed:
                self._taken -= size
                self._freed.notify_all()


DECODING = Room(AT_ONCE)
"""Of this process: several arrays may be read at a time."""


@dataclass(frozen=True)
class ZarrVectors(DecodedVectors):
    """Rows decoded by zarr-python, which decodes several chunks at a time."""

    chunk_rows: int
    """Rows of a chunk; of an inner chunk where there are shards."""

    def band(self, row: int) -> range:
        """The rows of the chunk, or of the chunks side by side, that hold `row`."""
        start = row - row % self.chunk_rows
        return range(start, min(start + self.chunk_rows, len(self)))

    def decoding_bytes(self, readers: int) -> int:
        """Bytes of the chunks that are decoded at once, as stored and as unpacked.

        zarr-python decodes some at once for each thread, but of a shard takes all that are asked for, and copies them.
        """
        array = self._array
        whole = self._piece_bytes * -(-len(self) // self.chunk_rows)
        chunks = zarr.config.get("async.concurrency") * readers * self._piece_bytes if array.shards is None else AT_ONCE
        names = {type(codec).__name__.removesuffix("Codec") for codec in array.compressors}
        copies = (2 if names <= LEAN else 4) + len(array.filters) + (array.shards is not None)
        return int(copies * max(min(AT_ONCE, chunks, whole), self._piece_bytes))

    def decode(self, rows: range, out: np.ndarray) -> None:
        """Decode chunks into `out`, so many at once as fit into `AT_ONCE`, or one."""
        step = max(1, AT_ONCE // self._piece_bytes) * self.chunk_rows
        for first in range(rows.start, rows.stop, step):
            part = range(first, min(first + step, rows.stop))
            into = out[first - rows.start :][: len(part)]
            with DECODING.room_for(-(-len(part) // self.chunk_rows) * self._piece_bytes):
                self._decode(part, into)

    def _decode(self, rows: range, out: np.ndarray) -> None:
        try:
            into = NDBuffer.from_numpy_array(out if self._array.dtype != np.bool_ else out.view(np.bool_))
            self._array.get_basic_selection(slice(rows.start, rows.stop), out=into)
        except Exception as error:  # codecs and stores raise what they like
            # A store that was there when it was opened is likely to be there again; a file stays damaged.
            kind = RunError if is_url(self.path) else InputError
            raise kind(f"{self.where}: rows {rows.start} to {rows.stop} cannot be read ({one_line(error)})") from error

    @cached_property
    def _piece_bytes(self) -> int:
        """Bytes of the chunks side by side that hold a row, unpacked: a chunk may be larger than the array."""
        rows, width = self._array.chunks
        return int(rows * width * -(-self.shape[1] // width) * self.dtype.itemsize)

    @cached_property
    def _array(self) -> zarr.Array:
        """Opened once in each process; it is not sent to others."""
        return zarr.open_array(store_of(self.path), path=self.key or "", mode="r")


def store_of(path: str | Path) -> Store:
    """What Zarr keeps an array or group in: a folder, or an object store's prefix by URL.

    Raises InputError where there is no such kind of object store, or its client is not installed.
    """
    return ObjectStore(object_store(str(path))) if is_url(path) else LocalStore(path)


@dataclass(frozen=True)
class ZarrIds(RowIds):
    """Ids in an array beside the rows."""

    path: str
    key: str

    def read(self) -> Iterator[Any]:
        """Some ids at a time."""
        with in_our_words(f"{self.where}: cannot be read"):
            array = zarr.open_array(store_of(self.path), path=self.key, mode="r")
            if array.shape != (self.count,):
                raise InputError(f"{self.where}: has the shape {array.shape}, not an id for each row; {id_advice()}")
            gaps = unwritten(array, f"{self.path}/{self.key}")
            if gaps:
                raise InputError(f"{self.where}: {gaps}; {id_advice()}")
            for first in range(0, array.shape[0], IDS_AT_ONCE):
                yield array[first : first + IDS_AT_ONCE]


def open_zarr(path: str | Path, key: str | None, missing: Missing) -> Vectors:
    """Open a Zarr array, or an array of a Zarr group.

    Raises InputError if there is none that fits, RunError if the object store does not answer.
    """
    key = key and key.strip("/")
    where = f"{path}:{key}" if key else str(path)
    if ".." in (key or "").split("/"):
        raise InputError(f"{where}: is no name for an array within {path}")
    if is_url(path) and not listing(str(path)):  # one request, before Zarr makes many
        raise InputError(f"{path}: there is nothing of that name")
    with in_our_words(f"{path}: is not a readable Zarr array or group"):
        array = _array(path, key)
        if key is None and isinstance(array, zarr.Group):
            key = choose_key({name: (a.shape, np.dtype(a.dtype)) for name, a in array.arrays()}, path)
            where, array = f"{path}:{key}", array[key]
        if not isinstance(array, zarr.Array):
            raise InputError(f"{where}: is a group, not an array")
        dtype = checked_dtype(array, where)
        ids = _ids_beside(path, key, array.shape[0])
        gaps = check_gaps(array, where, f"{path}/{key}" if key else str(path), missing)
        raw = None if is_url(path) or gaps else raw_zarr(array, Path(path), key)
        chunk_rows = array.chunks[0]
    n, d = array.shape
    rows = replace(raw, ids=ids) if raw else ZarrVectors(str(path), key, (n, d), dtype, chunk_rows, ids=ids)
    return PackedBits.of(rows) if array.dtype == np.bool_ else rows


def checked_dtype(array: zarr.Array, where: str) -> np.dtype:
    """The type of the rows, uint8 for booleans; raises InputError if the array is no set of vectors."""
    dtype = np.dtype(np.uint8) if array.dtype == np.bool_ else np.dtype(array.dtype)
    check_layout(array.shape, dtype, where)
    return dtype.newbyteorder("=")


def check_gaps(array: zarr.Array, where: str, place: str | StorePath, missing: Missing) -> bool:
    """Whether chunks are missing at `place` and read as zeros; raises InputError if they may not be."""
    gaps = unwritten(array, place)
    if gaps and missing == "refuse":
        raise missing_chunks(array, where, gaps)
    if gaps and array.fill_value:
        raise InputError(f"{where}: what was never written reads as {array.fill_value}, not as zeros; write it")
    return gaps is not None


def _ids_beside(path: str | Path, key: str | None, rows: int) -> ZarrIds | None:
    """The ids of the rows, in an array of the same group; None if there is none."""
    group_path, name = (str(path), key.strip("/")) if key else os.path.split(str(path).rstrip("/"))
    folder, slash, _ = name.rpartition("/")
    if group_path.endswith(":/"):  # of a URL without a prefix
        return None
    try:
        group = zarr.open_group(store_of(group_path or "."), path=folder, mode="r")
        names = {f"{folder}{slash}{found}" for found in group.array_keys()}
    except Exception:  # libraries raise what they like for a folder that is no group
        return None
    found = choose_ids(name, names)
    return None if found is None else ZarrIds(f"{group_path}:{found}", range(rows), rows, group_path or ".", found)


def _array(path: str | Path, key: str | None) -> zarr.Array | zarr.Group:
    """What is called `key`, or lies at `path` itself."""
    node = zarr.open(store_of(path), mode="r")
    if key is None:
        return node
    if isinstance(node, zarr.Array):
        raise InputError(f"{path}: is one array, not a group; leave out the key {key!r}")
    if key not in node:
        raise InputError(f"{path}: has no array {key!r}; it holds {', '.join(node.array_keys()) or 'none'}")
    return node[key]


@dataclass(frozen=True)
class ZarrTarget(Target):
    """A store of one array at its root, the metadata written last: before that there is no store.

    `shard_rows` is a multiple of `chunk_rows`.  Version 2 has chunks only; shards are pieces of work.
    """

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
            used, chunks = -(-len(piece) // self.chunk_rows), self.shard_rows // self.chunk_rows
            chunk_bytes = self.chunk_rows * self.shape[1] * self.dtype.itemsize
            write_shard(Path(self.path, f"c/{piece.start // self.shard_rows}/0"), blocks, used, chunks, chunk_bytes)
            return
        array = self._array()
        for rows in regrouped(blocks, len(piece), (len(piece), self.shape[1]), self.dtype):
            array[piece.start : piece.stop] = rows
        if not is_url(self.path):
            step = self.shard_rows if self.version == 3 else self.chunk_rows
            for row in piece[::step]:
                chunk = Path(self.path, array.metadata.encode_chunk_key((row // step, 0)))
                sync(chunk)
                sync(chunk.parent)

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Write the metadata."""
        if not is_url(self.path):
            for unfinished in Path(self.path).rglob("*.partial"):  # zarr-python's, if it was killed
                unfinished.unlink()
        with _told(self.path):
            array = self._array()
            missing = array.nchunks - array.nchunks_initialized
            if missing > 0:
                again = f"{same_again()} with {option('fresh', True)}"
                raise RunError(f"{self.path}: {missing} chunks have vanished; run {again}")
            array.update_attributes({"gpuknn": dict(notes)})  # which writes all metadata, those of an earlier try, too
        if not is_url(self.path):
            for file in Path(self.path).iterdir():
                sync(file)
            sync(Path(self.path))

    @property
    def _raw(self) -> bool:
        return self.version == 3 and self.compression == "none" and not is_url(self.path)

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
) -> ZarrTarget:
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
        raise InputError(f"{option('shard_rows', shard_rows)}: must be a multiple of a chunk's rows, {chunk_rows}")
    return ZarrTarget(path, shape, dtype, chunk_rows, shard_rows, compression, version)


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
        raise RunError(f"{where}: {one_line(error)}; run {same_again()} again") from error
