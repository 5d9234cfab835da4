"""Vectors in Zarr arrays, v2 and v3, in folders and object stores.

Uncompressed chunks and shards of whole rows are read past the library (`zarr_raw.py`); others are decoded by it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.buffer.cpu import NDBuffer
from zarr.storage import LocalStore, ObjectStore

from gpuknn.errors import InputError, RunError, one_line
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.location import is_url, listing, object_store
from gpuknn.vectors.source import Vectors, check_layout, choose_key
from gpuknn.vectors.zarr_raw import raw_zarr


@dataclass(frozen=True)
class ZarrVectors(DecodedVectors):
    """Rows decoded by zarr-python, which decodes several chunks at a time."""

    chunk_rows: int
    """Rows of a chunk; of an inner chunk where there are shards."""

    def band(self, row: int) -> range:
        """The rows of the chunk, or of the chunks side by side, that hold `row`."""
        start = row - row % self.chunk_rows
        return range(start, min(start + self.chunk_rows, len(self)))

    def decode(self, rows: range, out: np.ndarray) -> None:
        """Decode chunks into `out`."""
        try:
            into = NDBuffer.from_numpy_array(out)
            self._array.get_basic_selection(slice(rows.start, rows.stop), out=into)
        except Exception as error:  # codecs and stores raise what they like
            # A store that was there when it was opened is likely to be there again; a file stays damaged.
            kind = RunError if is_url(self.path) else InputError
            raise kind(f"{self.where}: rows {rows.start} to {rows.stop} cannot be read ({one_line(error)})") from error

    @cached_property
    def _array(self) -> zarr.Array:
        """Opened once in each process; it is not sent to others."""
        return zarr.open_array(store_of(self.path), path=self.key or "", mode="r")


def store_of(path: str | Path) -> Store:
    """What Zarr keeps an array or group in: a folder, or an object store's prefix by URL.

    Raises InputError where there is no such kind of object store, or its client is not installed.
    """
    return ObjectStore(object_store(str(path))) if is_url(path) else LocalStore(path)


def open_zarr(path: str | Path, key: str | None) -> Vectors:
    """Open a Zarr array, or an array of a Zarr group.

    Raises InputError where there is none that fits, RunError where the object store does not answer.
    """
    where = f"{path}:{key}" if key else str(path)
    if is_url(path) and not listing(str(path)):  # one request, before Zarr makes many
        raise InputError(f"{path}: there is nothing of that name")
    try:
        array = _array(path, key)
        if isinstance(array, zarr.Group):
            key = choose_key({name: (a.shape, a.dtype) for name, a in array.arrays()}, path)
            where, array = f"{path}:{key}", array[key]
        if not isinstance(array, zarr.Array):
            raise InputError(f"{where}: is a group, not an array")
        dtype = np.dtype(array.dtype)
        check_layout(array.shape, dtype, where)
        _check_files(array, f"{path}/{key}" if key else str(path), where)
        raw = None if is_url(path) else raw_zarr(array, Path(path), key)
        chunk_rows = array.chunks[0]
    except (InputError, RunError):
        raise
    except Exception as error:  # of damaged metadata, and of stores, there is no end of kinds
        raise InputError(f"{path}: is not a readable Zarr array or group ({one_line(error)})") from error
    shape = (array.shape[0], array.shape[1])
    return raw or ZarrVectors(str(path), key, shape, dtype.newbyteorder("="), chunk_rows)


def _array(path: str | Path, key: str | None) -> zarr.Array | zarr.Group:
    """What is called `key`, or lies at `path` itself."""
    node = zarr.open(store_of(path), mode="r")
    if key is None:
        return node
    if isinstance(node, zarr.Array):
        raise InputError(f"{path}: is one array, not a group; leave out the key {key!r}")
    if key not in node:
        raise InputError(f"{path}: has no array {key!r}; it holds {', '.join(node.array_keys()) or 'none'}")
    found = node[key]
    if not isinstance(found, zarr.Array):
        raise InputError(f"{path}:{key}: is a group, not an array")
    return found


def _check_files(array: zarr.Array, folder: str, where: str) -> None:
    """Raise InputError where files of chunks or shards are missing; the library would take them for zeros."""
    grid = [-(-length // piece) for length, piece in zip(array.shape, array.shards or array.chunks, strict=True)]
    there, need = {stored.name for stored in listing(folder)}, math.prod(grid)
    missing = need - len(there)  # before names are made: metadata may promise any number
    if missing <= 0:
        missing = sum(array.metadata.encode_chunk_key(place) not in there for place in np.ndindex(*grid))
    if missing:
        what = "shards" if array.shards else "chunks"
        raise InputError(f"{where}: {missing} of {need} {what} are missing; copy or write the store again")
