"""Vectors in HDF5 files: the bundles of the challenges (JLD2), ann-benchmarks, and whatever h5py writes.

Contiguous arrays are read and written past the HDF5 library, which would serialise all threads on one lock; chunked and
compressed ones are read through h5py.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from gpuknn.errors import InputError, in_our_words, option
from gpuknn.vectors.bits import PackedBits, unpack_bits
from gpuknn.vectors.decoded import HELD_BYTES, DecodedVectors
from gpuknn.vectors.hdf5_chunks import all_allocated, check_packed, check_written, has_filters, on_disk
from gpuknn.vectors.hdf5_links import refuse_links_out, refuse_outside
from gpuknn.vectors.ids import IDS_AT_ONCE, QUERY_ARRAYS, RowIds, choose_ids, id_advice, ids_beside
from gpuknn.vectors.raw import RawTarget, RawVectors, check_extent, reserve
from gpuknn.vectors.vectors import Vectors, check_layout, choose_key
from gpuknn.vectors.written import Missing, written_advice

READ_BYTES = 2**22
"""Of rows that lie one after another, read at once through the library."""

USER_BLOCK = b"HDF5-based Julia Data Format, version 0.1.1\x00".ljust(512, b"\x00")
"""Julia's JLD2 asks for this line before the file's first 512 bytes end; HDF5 skips it."""
VERSIONS = ("v108", "v108")
"""Of the file's structures: those that JLD2 reads."""
METADATA_BYTES = 2**17
"""What HDF5 and attributes take beside the arrays, at most."""
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
            with self._opened() as dataset:
                if self.zeros:
                    out[...] = 0  # HDF5 leaves alone what it need not fill
                into = out.view(np.bool_) if dataset.dtype == np.bool_ else out
                dataset.read_direct(into, np.s_[rows.start : rows.stop])
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError(f"{self.where}: rows {rows.start} to {rows.stop} cannot be read ({error})") from error

    def _opened(self) -> AbstractContextManager[h5py.Dataset]:
        """The array, as long as the context lasts."""
        return _opened(self.path, str(self.key))


@dataclass(frozen=True)
class HeldHdf5(Hdf5Vectors):
    """The same of an array that the program has open, in a file or in memory."""

    dataset: h5py.Dataset = field(kw_only=True, repr=False)
    in_files = False

    def _opened(self) -> AbstractContextManager[h5py.Dataset]:
        return nullcontext(self.dataset)


@dataclass(frozen=True)
class Hdf5Ids(RowIds):
    """Ids in an array beside the rows."""

    path: str
    key: str

    def read(self) -> Iterator[np.ndarray]:
        """Some ids at a time."""
        with in_our_words(f"{self.where}: cannot be read"), open_file(self.path) as file:
            refuse_links_out(file, self.key, self.where)
            dataset = file[self.key]
            refuse_outside(dataset, file, self.where)
            if dataset.shape != (self.count,):
                raise InputError(f"{self.where}: has the shape {dataset.shape}, not an id for each row; {id_advice()}")
            check_written(dataset, self.where, id_advice())
            for first in range(0, len(dataset), IDS_AT_ONCE):
                yield dataset[first : first + IDS_AT_ONCE]


def open_hdf5(path: Path, key: str | None, missing: Missing) -> Vectors:
    """Open an array of an HDF5 file; raises InputError if there is none that fits."""
    with in_our_words(f"{path}: is a damaged HDF5 file"), _open(path) as file:
        arrays = _arrays(file)
        if key is None:
            _refuse_sparse(file, path)
            key = choose_key(arrays, path)
        dataset = _dataset(file, key, path)
        rows, boolean = _vectors(dataset, str(path), key, missing), dataset.dtype == np.bool_
        id_key = choose_ids(key, file)
    if id_key is not None:
        n = len(rows)
        rows = replace(rows, ids=Hdf5Ids(f"{path}:{id_key}", range(n), n, str(path), id_key))
    return PackedBits.of(rows) if boolean else rows


def open_dataset(dataset: h5py.Dataset, name: str, missing: Missing) -> Vectors:
    """Take the rows of an array that the program has open; other arrays of its file are not looked at.

    `name`: what messages call an array that has no name of its own.  Raises InputError as `open_hdf5` does.
    """
    if not dataset:
        raise InputError(f"{name}: is an array of an HDF5 file that has been closed; open the file again")
    file, key = dataset.file, (dataset.name or name).strip("/")
    refuse_outside(dataset, file, f"{file.filename}:{key}")
    if file.mode != "r":
        file.flush()  # some rows are read past the library
    rows = _vectors(dataset, file.filename, key, missing, held=True)
    return PackedBits.of(rows) if dataset.dtype == np.bool_ else rows


def _vectors(
    dataset: h5py.Dataset, path: str, key: str, missing: Missing, held: bool = False
) -> RawVectors | Hdf5Vectors:
    """The rows of an array, without ids; booleans as uint8.

    `held`: whether the array stays open, and the library is to read it there.  Raises InputError if the rows are no
    vectors, or were never written.
    """
    where = f"{path}:{key}"
    kept = np.dtype(np.uint8) if dataset.dtype == np.bool_ else dataset.dtype
    check_layout(dataset.shape or (), kept, where)
    n, d = dataset.shape
    zeros, fill = missing == "zeros" and not all_allocated(dataset), dataset.fillvalue
    if missing == "refuse" or (zeros and fill not in (0, None)):
        plain = fill in (0, None)
        other = f"write the rows; HDF5 would read them as {fill}, not zeros"
        check_written(dataset, where, written_advice() if plain else other)
    else:
        check_packed(dataset, where)
    offset, dtype = _raw_offset(dataset), kept.newbyteorder("=")
    if offset is not None and on_disk(dataset.file):
        return check_extent(RawVectors(path, key, (n, d), dtype, offset), missing)
    any_rows = _any_rows(dataset)
    chunk_rows = max(1, READ_BYTES // (d * kept.itemsize)) if any_rows else dataset.chunks[0]
    chunk_bytes = 0 if any_rows else math.prod(dataset.chunks) * kept.itemsize
    described = path, key, (n, d), dtype, chunk_rows, chunk_bytes, zeros
    return HeldHdf5(*described, dataset=dataset) if held else Hdf5Vectors(*described)


@dataclass(frozen=True)
class Hdf5Target(RawTarget):
    """A bundle: its array `key` is contiguous, and written in pieces; ids of the rows stand beside it."""

    key: str = "emb"
    ids: RowIds | None = None
    bits: int | None = None
    """Components of a sketch that is written as booleans; None if it is written as it is."""

    def create(self) -> None:
        """Make the file with all arrays in it, and reserve the room."""
        Path(self.path).touch()
        reserve(self.path, self.nbytes + self.beside_bytes + METADATA_BYTES)  # HDF5 may crash where a disk is too small
        how = {"userblock_size": len(USER_BLOCK), "libver": VERSIONS, "locking": False}
        with writing(self.path), h5py.File(self.path, "w", **how) as file:
            place = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            place.set_layout(h5py.h5d.CONTIGUOUS)
            place.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            place.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            place.set_obj_track_times(False)  # the same rows, the same bytes
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            width, kept = (self.shape[1], self.dtype) if self.bits is None else (self.bits, np.dtype(np.bool_))
            space = h5py.h5s.create_simple((self.shape[0], width))
            kind = h5py.h5t.py_create(kept, logical=True)
            h5py.h5d.create(file.id, self.key.encode(), kind, space, place, links)
            self.put_beside(file)
        with open(self.path, "r+b") as raw:
            raw.write(USER_BLOCK)
        reserve(self.path, max(self.nbytes, Path(self.path).stat().st_size) + METADATA_BYTES)

    @property
    def beside_bytes(self) -> int:
        """What the other arrays take, at most."""
        return 0 if self.ids is None else 8 * self.shape[0]

    def put_beside(self, file: h5py.File) -> None:
        """Write all arrays but the rows, which are small."""
        if self.ids is not None:
            place = file.create_dataset(ids_beside(self.key), (self.shape[0],), np.int64)
            first = 0
            for batch in self.ids.batches():
                place[first : first + len(batch)] = batch
                first += len(batch)

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Write what the file says of itself to its root.

        If the same is there already, nothing is written: a second time would change the file's bytes.
        """
        said = json.dumps(notes)
        with open_file(self.path) as file:
            if file.attrs.get("gpuknn") == said:
                return
        with writing(self.path), h5py.File(self.path, "r+", libver=VERSIONS, locking=False) as file:
            file.attrs["gpuknn"] = said

    @property
    def _row_bytes(self) -> int:
        return super()._row_bytes if self.bits is None else self.bits

    def _prefixed(self, block: np.ndarray) -> memoryview:
        return super()._prefixed(block if self.bits is None else unpack_bits(block, self.bits))

    def _offset(self) -> int:
        with h5py.File(self.path, "r", locking=False) as file:
            offset: int = file[self.key].id.get_offset()
            return offset


def hdf5_target(path: str, shape: tuple[int, int], dtype: np.dtype, key: str | None, ids: RowIds | None) -> Hdf5Target:
    """The writer of a bundle; raises InputError if `key` is no name."""
    if key is not None:
        check_key(key, () if ids is None else (ids_beside(key),))
    return Hdf5Target(path, shape, dtype, key=key or ("hamming" if dtype == np.uint64 else "emb"), ids=ids)


def check_key(key: str, taken: tuple[str, ...] = ()) -> None:
    """Raise InputError where no array can have this path, or one of those that are `taken` is in its way."""
    plain = key.strip("/")
    path = PurePosixPath(plain)
    if any(part in ("", ".", "..") for part in plain.split("/")) or any(
        path.is_relative_to(other) or PurePosixPath(other).is_relative_to(path) for other in taken
    ):
        named = option("dst_key", f"{key!r}", f"dst_key={key!r}")
        raise InputError(f"{named}: is no name for an array, or another's; choose one such as emb")


def arrays_of_queries(path: str) -> list[str]:
    """Arrays of an HDF5 file that hold queries, by their names; none if it is no such file."""
    try:
        with open_file(path) as file:
            return [name for name in _arrays(file) if name.rpartition("/")[2] in QUERY_ARRAYS]
    except (OSError, RuntimeError, ValueError):
        return []


def open_file(path: str | Path) -> h5py.File:
    """The file for reading, without locks, so that read-only and network folders work.

    Raises OSError or others if that is not possible.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        # This process has the file open with locks, and HDF5 opens it a second time in the same way only.
        file = h5py.File(path, "r")
    for opened in h5py.h5f.get_obj_ids(file.id, h5py.h5f.OBJ_FILE | h5py.h5f.OBJ_DATASET):
        h5py.h5f.flush(opened)  # this process may have written to it, and some rows are read past the library
    return file


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raises OSError if the disk is full, for which h5py's word is RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written ({error})") from error


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """The file for reading; raises InputError if it is none."""
    try:
        file = open_file(path)
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


@contextmanager
def _opened(path: str, key: str) -> Iterator[h5py.Dataset]:
    with open_file(path) as file:
        yield file[key]


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
    refuse_links_out(file, key, f"{path}:{key}")
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
