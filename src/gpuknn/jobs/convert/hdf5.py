"""HDF5: the challenges' bundles and the layouts of ann-benchmarks and SISAP.

The array is contiguous and has its place in the file from the beginning, so that its rows are written past the HDF5
library, by any number of processes.  The rows' ids, if they have some, stand in `ids` beside them.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold import Gold, hdf5, read_gold
from gpuknn.gold.distances import BITS, for_ann_benchmarks, said_of, said_to_ann_benchmarks, told
from gpuknn.gold.writer import Outline
from gpuknn.jobs.convert.flat import Flat, reserve
from gpuknn.jobs.convert.formats import NARROW
from gpuknn.vectors import Vectors
from gpuknn.vectors.bits import unpack_bits
from gpuknn.vectors.ids import RowIds, ids_beside, own_ids

USER_BLOCK = b"HDF5-based Julia Data Format, version 0.1.1\x00".ljust(512, b"\x00")
"""Julia's JLD2 asks for this line before the file's first 512 bytes end; HDF5 skips it."""
VERSIONS = ("v108", "v108")
"""Of the file's structures: those that JLD2 reads."""


@dataclass(frozen=True)
class Layout:
    """Where a file of several arrays has its parts, by path."""

    rows: str
    queries: str
    query_ids: str
    gold: str
    """The group of the gold standard."""
    arrays: hdf5.Arrays

    @property
    def taken(self) -> tuple[str, ...]:
        """Paths that the rows cannot have."""
        names = self.arrays.ids, self.arrays.dists, self.arrays.own_ids, self.arrays.query_ids
        return self.queries, self.query_ids, *(f"{self.gold}/{name}".strip("/") for name in names)


ANN_BENCHMARKS = Layout("train", "test", "query_ids", "", hdf5.ANN_BENCHMARKS)
SISAP = Layout("train", "itest/queries", "itest/query_ids", "itest", hdf5.SISAP)
SISAP_ALL_KNN = Layout("train", "itest/queries", "itest/query_ids", "allknn", hdf5.SISAP)


@dataclass(frozen=True)
class Hdf5(Flat):
    """A file whose array `key` is written in pieces; the others, which are small, as the file is made."""

    key: str = "emb"
    layout: Layout | None = None
    queries: Vectors | None = None
    gold: str | None = None
    """A gold-standard file."""
    distance: str | None = None
    """Which distances it holds, if it does not tell."""
    ids: RowIds | None = None
    bits: int | None = None
    """Components of a sketch that is written as booleans; None if it is written as it is."""

    def create(self) -> None:
        """Make the file with all arrays in it, and reserve the room."""
        with _writing(
            h5py.File(self.path, "w", userblock_size=len(USER_BLOCK), libver=VERSIONS, locking=False)
        ) as file:
            place = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            place.set_layout(h5py.h5d.CONTIGUOUS)
            place.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            place.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            width, kept = (self.shape[1], self.dtype) if self.bits is None else (self.bits, np.dtype(np.bool_))
            space = h5py.h5s.create_simple((self.shape[0], width))
            kind = h5py.h5t.py_create(kept, logical=True)
            h5py.h5d.create(file.id, self.key.encode(), kind, space, place, links)
            self._fill(file)
        with open(self.path, "r+b") as raw:
            raw.write(USER_BLOCK)
        reserve(self.path, max(self.nbytes, Path(self.path).stat().st_size))

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Write what the file says of itself to its root."""
        with _writing(h5py.File(self.path, "r+", libver=VERSIONS, locking=False)) as file:
            file.attrs["gpuknn"] = json.dumps(notes)

    def _fill(self, file: h5py.File) -> None:
        if self.ids is not None:
            place = file.create_dataset(ids_beside(self.key), (self.shape[0],), np.int64)
            first = 0
            for batch in self.ids.batches():
                place[first : first + len(batch)] = batch
                first += len(batch)
        if self.layout is None:
            return
        said: dict[str, Any] = {}
        if self.queries is not None:
            file[self.layout.queries] = self._as_stored(self.queries[:])
            query_ids = own_ids(self.queries.ids)
            if query_ids is not None:
                file[self.layout.query_ids] = query_ids.all()
        if self.gold is not None:
            gold = self._gold(self.gold)
            gold = for_ann_benchmarks(gold, self.gold) if self.layout == ANN_BENCHMARKS else gold
            group = hdf5.place_gold(file, self.layout.gold or "/", Outline.of(gold), self.layout.arrays)
            hdf5.put_gold(group, 0, gold, self.layout.arrays)
            said |= said_to_ann_benchmarks(gold) if self.layout == ANN_BENCHMARKS else said_of(gold)
        if self.layout == ANN_BENCHMARKS:
            width, kind = (self.shape[1], "float") if self.bits is None else (self.bits, "bit")
            said |= {"type": "dense", "dimension": width, "point_type": kind}
        file.attrs.update(said)

    def _gold(self, name: str) -> Gold:
        """The gold standard, in the order of the queries; raises InputError if it is about other queries or rows."""
        gold = told(read_gold(name), self.distance, name)
        asked, query_ids = self._asked()
        if self.ids is not None and not gold.are_rows:
            raise InputError(f"{name}: tells no row numbers, and the rows have ids of their own; compute an .h5 file")
        if len(gold) != asked or int(gold.ids.max(initial=0)) >= self.shape[0]:
            raise InputError(f"{name}: does not answer {asked:,} queries among {self.shape[0]:,} rows")
        if gold.dists is None:
            raise InputError(f"{name}: has no distances, which the format needs; gpuknn exact finds them")
        shares_of = gold.said.get("dimension") if gold.distance == "mean-hamming" else None
        bits = gold.said.get(BITS, shares_of or self.bits)
        if self.bits is not None and bits != self.bits:
            raise InputError(f"{name}: is about sketches of {bits} bits, the rows have {self.bits}")
        if self.ids is not None and gold.own_ids is not None and np.any(self.ids.of(gold.ids) != gold.own_ids):
            raise InputError(f"{name}: gives its rows other ids than {self.ids.where}; it is about another database")
        if gold.query_ids is not None and query_ids is not None:
            gold = gold.queries(np.argsort(gold.query_ids)[np.argsort(np.argsort(query_ids))])
            if np.any(gold.query_ids != query_ids):
                raise InputError(f"{name}: answers queries of other ids than those given with --queries")
        elif not gold.in_order:
            raise InputError(
                f"{name}: its lines are not in the order of the queries' ids, which the queries do not tell"
            )
        return gold if self.bits is None else replace(gold, said={**gold.said, BITS: self.bits})

    def _asked(self) -> tuple[int, np.ndarray | None]:
        """How many queries there are, and their ids if these are not their numbers."""
        ids = self.ids if self.queries is None else own_ids(self.queries.ids)
        return self.shape[0] if self.queries is None else len(self.queries), None if ids is None else ids.all()

    def _as_stored(self, rows: np.ndarray) -> np.ndarray:
        """Sketches as they are, or as booleans; queries of a narrow type as wide as the rows."""
        if self.bits is not None:
            return unpack_bits(rows, self.bits)
        return rows.astype(self.dtype) if self.layout == ANN_BENCHMARKS and rows.dtype.name in NARROW else rows

    @property
    def _row_bytes(self) -> int:
        return super()._row_bytes if self.bits is None else self.bits

    def _prefixed(self, block: np.ndarray) -> memoryview:
        return super()._prefixed(self._as_stored(block))

    def _offset(self) -> int:
        with h5py.File(self.path, "r", locking=False) as file:
            offset: int = file[self.key].id.get_offset()
            return offset


def hdf5_target(
    path: str,
    shape: tuple[int, int],
    dtype: np.dtype,
    key: str | None = None,
    layout: Layout | None = None,
    queries: Vectors | None = None,
    gold: str | None = None,
    distance: str | None = None,
    ids: RowIds | None = None,
    bits: int | None = None,
) -> Hdf5:
    """A bundle, or a file of the given layout with queries and a gold standard beside the rows.

    Raises InputError where queries and rows differ in their components, or `key` is no name.
    """
    usual = layout.rows if layout else "hamming" if dtype == np.uint64 else "emb"
    if key is not None:
        own = (ids_beside(key),) if ids is not None else ()
        check_key(key, (*own, *(layout.taken if layout else ())))
    if queries is not None and queries.shape[1] != shape[1]:
        raise InputError(f"{queries.where}: has {queries.shape[1]} components, the rows have {shape[1]}")
    if queries is not None and queries.bits and bits and queries.bits != bits:
        raise InputError(f"{queries.where}: has sketches of {queries.bits} bits, the rows have {bits}")
    told_bits = bits or (queries and queries.bits) or 64 * shape[1]
    booleans = told_bits if layout == ANN_BENCHMARKS and dtype == np.uint64 else None
    return Hdf5(path, shape, dtype, b"", b"", key or usual, layout, queries, gold, distance, ids, booleans)


def check_key(key: str, taken: tuple[str, ...] = ()) -> None:
    """Raise InputError where no array can have this path, or one of those that are `taken` is in its way."""
    plain = key.strip("/")
    path = PurePosixPath(plain)
    if any(part in ("", ".", "..") for part in plain.split("/")) or any(
        path.is_relative_to(other) or PurePosixPath(other).is_relative_to(path) for other in taken
    ):
        raise InputError(f"--dst-key {key!r}: is no name for an array, or another's; choose one such as emb")


def choose_layout(name: str, queries: bool) -> Layout | None:
    """The layout of a format; without `queries` a gold standard is about the rows themselves."""
    if name == "ann-benchmarks":
        return ANN_BENCHMARKS
    if name == "sisap":
        return SISAP if queries else SISAP_ALL_KNN
    return None


@contextmanager
def _writing(file: h5py.File) -> Iterator[h5py.File]:
    """The file, closed when left; raises OSError where the disk is full."""
    try:
        with file:
            yield file
    except RuntimeError as error:  # h5py's word for it
        raise OSError(f"the HDF5 file cannot be written ({error})") from error
