"""Vectors in HDF5 files: the bundles of the challenges (JLD2), ann-benchmarks, and whatever h5py writes.

Contiguous arrays are read past the HDF5 library, which would serialise all threads on one lock; chunked and
compressed ones go through h5py.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.decoded import HELD_BYTES, DecodedVectors
from gpuknn.vectors.hdf5_chunks import all_allocated, check_packed, check_written, has_filters
from gpuknn.vectors.ids import ADVICE as ID_ADVICE
from gpuknn.vectors.ids import IDS_AT_ONCE, QUERY_ARRAYS, RowIds, choose_ids
from gpuknn.vectors.raw import RawVectors, check_extent
from gpuknn.vectors.source import Vectors, check_layout, choose_key
from gpuknn.vectors.written import ADVICE as WRITTEN_ADVICE
from gpuknn.vectors.written import Missing

READ_BYTES = 2**22
"""Of rows that lie one after another, read at once through the library."""

SPARSE = {"data", "indices", "indptr"}
"""What a group of sparse rows (CSR) holds in the challenges' files."""


@dataclass(frozen=True)
class Hdf5Vectors(DecodedVectors):
    """Rows that only the HDF5 library can read: chunked, compressed, or of foreign byte order."""

    chunk_rows: int
    """Rows that are decoded together."""
    chunk_bytes: int
    """Bytes of a chunk, unpacked, which may be larger than the array; 0 if HDF5 can read any rows without others."""
    zeros: bool = False
    """Whether some rows were never written and are read as zeros."""

    def band(self, row: int) -> range:
        """The rows of the chunk, or of the chunks side by side, that hold `row`."""
        start = row - row % self.chunk_rows
        return range(start, min(start + self.chunk_rows, len(self)))

    def decoding_bytes(self, readers: int) -> int:
        """Measured: a chunk as it is stored and as it is unpacked, in one thread at a time (HDF5 has one lock).

        A band that is larger than callers' buffers is filled in memory that was asked for just before: the system gives
        its pages as they are filled, when the chunk as it is stored has gone.
        """
        return (2 if self.band_bytes <= HELD_BYTES else 1) * self.chunk_bytes

    def decode(self, rows: range, out: np.ndarray) -> None:
        """Fill `out` through h5py."""
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                if self.zeros:
                    out[...] = 0  # HDF5 leaves alone what it need not fill
                dataset = file[self.key]
                into = out.view(np.bool_) if dataset.dtype == np.bool_ else out
                dataset.read_direct(into, np.s_[rows.start : rows.stop])
        except (OSError, RuntimeError, KeyError) as error:
            raise InputError(f"{self.where}: rows {rows.start} to {rows.stop} cannot be read ({error})") from error


@dataclass(frozen=True)
class Hdf5Ids(RowIds):
    """Ids in an array beside the rows."""

    path: str
    key: str

    def read(self) -> Iterator[np.ndarray]:
        """Some ids at a time."""
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                dataset = file[self.key]
                refuse_outside(dataset, file, self.where)
                if dataset.shape != (self.count,):
                    raise InputError(
                        f"{self.where}: has the shape {dataset.shape}, not an id for each row; {ID_ADVICE}"
                    )
                check_written(dataset, self.where, ID_ADVICE)
                for first in range(0, len(dataset), IDS_AT_ONCE):
                    yield dataset[first : first + IDS_AT_ONCE]
        except InputError:
            raise
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            raise InputError(f"{self.where}: cannot be read ({error})") from error


def open_hdf5(path: Path, key: str | None, missing: Missing) -> Vectors:
    """Open an array of an HDF5 file; raises InputError if there is none that fits."""
    try:
        with _open(path) as file:
            arrays = _arrays(file)
            if key is None:
                _refuse_sparse(file, path)
                key = choose_key(arrays, path)
            dataset = _dataset(file, key, path)
            where, boolean = f"{path}:{key}", dataset.dtype == np.bool_
            kept = np.dtype(np.uint8) if boolean else dataset.dtype
            check_layout(dataset.shape, kept, where)
            n, d = dataset.shape
            id_key = choose_ids(key, file)
            zeros, fill = missing == "zeros" and not all_allocated(dataset), dataset.fillvalue
            if missing == "refuse" or (zeros and fill not in (0, None)):
                plain = fill in (0, None)
                other = f"write the rows; HDF5 would read them as {fill}, not zeros"
                check_written(dataset, where, WRITTEN_ADVICE if plain else other)
            else:
                check_packed(dataset, where)
            offset = _raw_offset(dataset)
            any_rows = _any_rows(dataset)
            chunk_rows = max(1, READ_BYTES // (d * kept.itemsize)) if any_rows else dataset.chunks[0]
            chunk_bytes = 0 if any_rows else math.prod(dataset.chunks) * kept.itemsize
    except InputError:
        raise
    except Exception as error:  # of a damaged file h5py raises what it likes
        raise InputError(f"{path}: is a damaged HDF5 file ({error})") from error
    ids = None if id_key is None else Hdf5Ids(f"{path}:{id_key}", range(n), n, str(path), id_key)
    dtype = kept.newbyteorder("=")
    rows: Vectors
    if offset is not None:
        rows = check_extent(RawVectors(str(path), key, (n, d), dtype, offset, ids=ids), missing)
    else:
        rows = Hdf5Vectors(str(path), key, (n, d), dtype, chunk_rows, chunk_bytes, zeros, ids=ids)
    return PackedBits.of(rows) if boolean else rows


def arrays_of_queries(path: str) -> list[str]:
    """Arrays of an HDF5 file that hold queries, by their names; none if it is no such file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return [name for name in _arrays(file) if name.rpartition("/")[2] in QUERY_ARRAYS]
    except (OSError, RuntimeError, ValueError):
        return []


def refuse_outside(item: h5py.Dataset | h5py.Group, file: h5py.File, where: str) -> None:
    """Raise InputError if a link led out of the file, or an array keeps its content in others."""
    elsewhere = isinstance(item, h5py.Dataset) and (item.external is not None or item.is_virtual)
    if elsewhere or item.file.filename != file.filename:
        raise InputError(f"{where}: keeps its rows in another file; name that file instead")


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """The file for reading, without locks, so that read-only and network folders work."""
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        damaged = h5py.is_hdf5(path)
        what = (
            f"is a damaged or truncated HDF5 file ({error})"
            if damaged
            else "is not HDF5, .npy, Parquet or Zarr, and has no suffix of raw vectors"
        )
        raise InputError(f"{path}: {what}") from error
    with file:
        yield file


def _arrays(file: h5py.File) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of all arrays in the file, by name; links out of the file are not followed."""
    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found[name] = (item.shape, item.dtype)

    file.visititems(visit)
    return found


def _refuse_sparse(group: h5py.Group, path: Path) -> None:
    """Raise InputError where rows are sparse in `group` or below."""
    found: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Group) and set(item) >= SPARSE:
            found.append(name)

    visit(group.name, group)
    group.visititems(visit)
    if found:
        raise InputError(
            f"{path}: holds sparse rows (CSR) in {', '.join(found)}; only dense vectors are searched, name them by key"
        )


def _dataset(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """The array called `key`, which must lie in this very file."""
    try:
        dataset = file[key]
    except (KeyError, OSError, ValueError) as error:
        raise InputError(f"{path}: has no array {key!r}; it holds {', '.join(_arrays(file)) or 'nothing'}") from error
    if isinstance(dataset, h5py.Group):
        _refuse_sparse(dataset, path)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise InputError(f"{path}:{key}: is not an array; the file holds {', '.join(_arrays(file)) or 'nothing'}")
    refuse_outside(dataset, file, f"{path}:{key}")
    return dataset


def _any_rows(dataset: h5py.Dataset) -> bool:
    """Whether any rows can be read without others.

    HDF5 reads rows straight from a chunk of whole rows that has no filters and is too large for the cache of chunks.
    """
    if dataset.chunks is None:
        return True
    rows, width = dataset.chunks
    cache: int = dataset.id.get_access_plist().get_chunk_cache()[1]
    plain = not has_filters(dataset) and width >= dataset.shape[1]
    return bool(plain and rows * width * dataset.dtype.itemsize > cache)


def _raw_offset(dataset: h5py.Dataset) -> int | None:
    """Where a contiguous array begins in the file; None where the bytes there are not simply its rows.

    HDF5 reports an offset also for arrays that were never written; their storage size is 0.
    """
    plain = dataset.chunks is None and not has_filters(dataset)
    native = dataset.dtype.isnative and dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))
    if not plain or not native or dataset.id.get_storage_size() != dataset.size * dataset.dtype.itemsize:
        return None
    offset: int | None = dataset.id.get_offset()
    return offset
