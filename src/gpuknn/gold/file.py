"""Gold-standard files, laid out as those published for the SISAP challenges.

`knns` (nq, k) int32 (int64 past 2^31 - 1 rows), rows counted from 1; `dists` (nq, k) float32 or float64; row i belongs
to query i, nearest first.  What describes the run stands in root attributes, so that the two arrays' bytes depend on
the answer alone.
"""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from gpuknn.errors import InputError
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold.formats import reader_of
from gpuknn.gold.parquet import is_neighbors_parquet, read_neighbors_parquet
from gpuknn.vectors.hdf5 import refuse_outside
from gpuknn.vectors.source import KNOWN_NAMES, is_folder

Attributes = Mapping[str, str | int | float]


class GoldWriter:
    """Writes a gold-standard file piece by piece; it appears under its name when all is written and on disk."""

    def __init__(self, path: str | Path, nq: int, k: int, rows: int, dists: np.dtype) -> None:
        self._path = Path(path)
        for stale in self._path.parent.glob(f"{glob.escape(self._path.name)}.????????.part"):
            stale.unlink(missing_ok=True)  # of a process that was killed
        self._part = self._path.with_name(f"{self._path.name}.{os.urandom(4).hex()}.part")
        self._file = h5py.File(self._part, "w")
        id_type = np.int32 if rows <= np.iinfo(np.int32).max else np.int64
        self._knns = self._file.create_dataset("knns", (nq, k), id_type)
        self._dists = self._file.create_dataset("dists", (nq, k), dists)

    def __enter__(self) -> Self:
        return self

    def write(self, first: int, neighbors: Neighbors) -> None:
        """Write the answers to the queries from `first` on."""
        last = first + len(neighbors.ids)
        self._knns[first:last] = neighbors.ids + 1
        self._dists[first:last] = neighbors.dists

    def describe(self, attributes: Attributes) -> None:
        """Add root attributes."""
        self._file.attrs.update(attributes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
            if kind is None:
                sync(self._part)
                os.replace(self._part, self._path)
                sync(self._path.parent)
        finally:
            self._part.unlink(missing_ok=True)

    def _close(self) -> None:
        try:
            self._file.close()
        except RuntimeError as error:  # h5py's word for a disk that is full
            raise OSError(f"{self._path} cannot be written ({error})") from error


def write_gold(path: str | Path, neighbors: Neighbors, attributes: Attributes | None = None) -> None:
    """Write `neighbors` to a gold-standard file, whole or not at all; an existing file is replaced.

    Parameters
    ----------
    path
        The file, by convention `.h5`.
    neighbors
        ids (nq, k) from 0, stored from 1; dists (nq, k) float32 or float64.
    attributes
        Root attributes to add.
    """
    nq, k = neighbors.ids.shape
    highest = int(neighbors.ids.max(initial=0)) + 1
    with GoldWriter(path, nq, k, highest, neighbors.dists.dtype) as file:
        file.write(0, neighbors)
        file.describe(attributes or {})


ARRAYS = {"knns": ("dists", 1), "neighbors": ("distances", 0)}
"""Names of ids in HDF5, those of their distances, and the number of the first row: SISAP's, ann-benchmarks'."""


def read_gold(path: str | Path, key: str | None = None) -> Neighbors:
    """Read a gold-standard or result file: HDF5 or, by its name, one of `gold.formats`.

    Parameters
    ----------
    path
        HDF5 holds `knns` counted from 1 and `dists`, or ann-benchmarks' `neighbors` counted from 0 and `distances`.
    key
        The group of an HDF5 file in which they are (SISAP's itest, otest, allknn), where there are several.

    Returns
    -------
    Neighbors
        ids (nq, k) int64 from 0, dists (nq, k) as stored, NaN where the format has none.

    Raises
    ------
    InputError
        The file is missing, is not of these formats, or lacks ids and distances of one shape.
    """
    return read_result(path, key)[0]


def read_result(path: str | Path, key: str | None = None) -> tuple[Neighbors, dict[str, Any]]:
    """The neighbours in a file and what it says of itself, in attributes or in scalar datasets."""
    path = Path(path)
    if is_folder(path):
        raise InputError(f"{path}: is a folder, not a result or gold-standard file")
    reader = reader_of(path)
    if reader is not None:
        if key is not None:
            raise InputError(f"{path}: holds one gold standard without a name; leave out the key {key!r}")
        return reader(path), {}
    try:
        with h5py.File(path, "r", locking=False) as file:
            group = file if key is None else _group(file, key, path)
            name = next((name for name in ARRAYS if name in group), "knns")
            dists_name, first_id = ARRAYS[name]
            ids, dists = _matrix(group, name, path), _matrix(group, dists_name, path)
            said = {name: _plain(value) for name, value in file.attrs.items()}
            for name in file:
                if file.get(name, getclass=True, getlink=True) is h5py.HardLink:
                    item = file[name]
                    if isinstance(item, h5py.Dataset) and item.shape == () and item.external is None:
                        said[name] = _plain(item[()])
    except InputError:
        raise
    except Exception as error:  # of a damaged file h5py raises what it likes
        raise InputError(f"{path}: is not a readable HDF5 file ({error})") from error
    if ids.shape != dists.shape:
        raise InputError(f"{path}: {name} {ids.shape} and {dists_name} {dists.shape} differ in shape")
    if ids.dtype.kind not in "iu" or dists.dtype.kind != "f":
        raise InputError(f"{path}: {name} are {ids.dtype} and {dists_name} {dists.dtype}; expected integers and floats")
    return Neighbors(ids.astype(np.int64) - first_id, dists), said


def read_attributes(path: Path) -> dict[str, Any]:
    """What an HDF5 file says of itself in its root attributes; nothing where it is no HDF5 file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return {name: _plain(value) for name, value in file.attrs.items()}
    except (OSError, RuntimeError, ValueError):
        return {}


def holds_gold(path: str | Path, key: str | None = None) -> bool:
    """Whether a file, or the named group of an HDF5 file, holds a gold standard and nothing that could be rows."""
    path = Path(path)
    reader = reader_of(path)
    if reader is not None:
        return reader is not read_neighbors_parquet or is_neighbors_parquet(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            group = file.get(key or "/")
            if not isinstance(group, h5py.Group):
                return False
            return any(name in group for name in ARRAYS) and not any(name in group for name in KNOWN_NAMES)
    except (OSError, ValueError, RuntimeError):
        return False


def sync(path: Path) -> None:
    """Wait until a file's or folder's content is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _group(file: h5py.File, key: str, path: Path) -> h5py.Group:
    item = file.get(key)
    if not isinstance(item, h5py.Group):
        raise InputError(f"{path}: has no group {key!r} that would hold knns and dists")
    refuse_outside(item, file, f"{path}:{key}")
    return item


def _matrix(file: h5py.Group, name: str, path: Path) -> np.ndarray:
    item = file.get(name)
    if not isinstance(item, h5py.Dataset) or item.ndim != 2:
        raise InputError(f"{path}: has no matrix {name!r}; a gold-standard file holds knns and dists, (queries, k)")
    refuse_outside(item, file.file, f"{path}:{name}")
    values: np.ndarray = item[:]
    return values


def _plain(value: Any) -> Any:
    """An attribute as Python's own type."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
