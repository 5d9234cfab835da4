"""Vectors in HDF5 files: the bundles of the challenges (JLD2), ann-benchmarks, and whatever h5py writes.

Contiguous arrays are read past the HDF5 library, which would serialise all threads on one lock; chunked and
compressed ones go through h5py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.raw import RawVectors, check_extent
from gpuknn.vectors.source import Vectors, check_layout, choose_key

SPARSE = {"data", "indices", "indptr"}
"""What a group of sparse rows (CSR) holds in the challenges' files."""


@dataclass(frozen=True)
class Hdf5Vectors(DecodedVectors):
    """Rows that only the HDF5 library can read: chunked, compressed, or of foreign byte order."""

    chunk_rows: int
    """Rows of a chunk; 1 where there are none."""

    def band(self, row: int) -> range:
        """The rows of the chunk, or of the chunks side by side, that hold `row`."""
        start = row - row % self.chunk_rows
        return range(start, min(start + self.chunk_rows, len(self)))

    def decode(self, rows: range, out: np.ndarray) -> None:
        """Fill `out` through h5py."""
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                file[self.key].read_direct(out, np.s_[rows.start : rows.stop])
        except (OSError, RuntimeError, KeyError) as error:
            raise InputError(f"{self.where}: rows {rows.start} to {rows.stop} cannot be read ({error})") from error


def open_hdf5(path: Path, key: str | None) -> Vectors:
    """Open an array of an HDF5 file; raises InputError where there is none that fits."""
    try:
        with _open(path) as file:
            if key is None:
                _refuse_sparse(file, path)
                key = choose_key(_arrays(file), path)
            dataset = _dataset(file, key, path)
            check_layout(dataset.shape, dataset.dtype, f"{path}:{key}")
            shape, dtype = (dataset.shape[0], dataset.shape[1]), dataset.dtype.newbyteorder("=")
            offset = _raw_offset(dataset)
            chunk_rows = (dataset.chunks or (1,))[0]
    except InputError:
        raise
    except Exception as error:  # of a damaged file h5py raises what it likes
        raise InputError(f"{path}: is a damaged HDF5 file ({error})") from error
    if offset is not None:
        return check_extent(RawVectors(str(path), key, shape, dtype, offset))
    return Hdf5Vectors(str(path), key, shape, dtype, chunk_rows)


def refuse_outside(item: h5py.Dataset | h5py.Group, file: h5py.File, where: str) -> None:
    """Raise InputError where a link led out of the file, or an array keeps its content in others."""
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


def _raw_offset(dataset: h5py.Dataset) -> int | None:
    """Where a contiguous array begins in the file; None where the bytes there are not simply its rows.

    HDF5 reports an offset also for arrays that were never written; their storage size is 0.
    """
    plain = dataset.chunks is None and dataset.id.get_create_plist().get_nfilters() == 0
    native = dataset.dtype.isnative and dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))
    if not plain or not native or dataset.id.get_storage_size() != dataset.size * dataset.dtype.itemsize:
        return None
    offset: int | None = dataset.id.get_offset()
    return offset
