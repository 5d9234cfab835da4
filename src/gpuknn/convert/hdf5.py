"""HDF5: the challenges' bundles and the layouts of ann-benchmarks and SISAP.

The array is contiguous and has its place in the file from the beginning, so that its rows are written past the HDF5
library, by any number of processes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from gpuknn.convert.flat import Flat, reserve
from gpuknn.errors import InputError
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold import read_result
from gpuknn.gold.ids_only import has_distances
from gpuknn.vectors import Vectors

USER_BLOCK = b"HDF5-based Julia Data Format, version 0.1.1\x00".ljust(512, b"\x00")
"""Julia's JLD2 asks for this line before the file's first 512 bytes end; HDF5 skips it."""
VERSIONS = ("v108", "v108")
"""Of the file's structures: those that JLD2 reads."""


@dataclass(frozen=True)
class Layout:
    """Where a file of several arrays has its parts, by path."""

    rows: str
    queries: str
    ids: str
    dists: str
    first_id: int


ANN_BENCHMARKS = Layout("train", "test", "neighbors", "distances", 0)
SISAP = Layout("train", "itest/queries", "itest/knns", "itest/dists", 1)
SISAP_ALL_KNN = Layout("train", "itest/queries", "allknn/knns", "allknn/dists", 1)
DISTANCES = {"cosine": "angular", "l2": "euclidean", "ip": "ip", "hamming": "hamming"}
"""ann-benchmarks' names of the metrics."""


@dataclass(frozen=True)
class Hdf5(Flat):
    """A file whose array `key` is written in pieces; the others, which are small, as the file is made."""

    key: str = "emb"
    layout: Layout | None = None
    queries: Vectors | None = None
    gold: str | None = None
    """A gold-standard file."""

    def create(self) -> None:
        """Make the file with all arrays in it, and reserve the room."""
        with _writing(h5py.File(self.path, "w", userblock_size=len(USER_BLOCK), libver=VERSIONS)) as file:
            place = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            place.set_layout(h5py.h5d.CONTIGUOUS)
            place.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            place.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            space, kind = h5py.h5s.create_simple(self.shape), h5py.h5t.py_create(self.dtype)
            h5py.h5d.create(file.id, self.key.encode(), kind, space, place, links)
            self._fill(file)
        with open(self.path, "r+b") as raw:
            raw.write(USER_BLOCK)
        reserve(self.path, max(self.nbytes, Path(self.path).stat().st_size))

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Write what the file says of itself to its root."""
        with _writing(h5py.File(self.path, "r+", libver=VERSIONS)) as file:
            file.attrs["gpuknn"] = json.dumps(notes)

    def _fill(self, file: h5py.File) -> None:
        if self.layout is None:
            return
        said: dict[str, Any] = {}
        if self.queries is not None:
            file[self.layout.queries] = self.queries[:]
        if self.gold is not None:
            gold, said = read_result(self.gold)
            asked = self.shape[0] if self.queries is None else len(self.queries)
            if len(gold.ids) != asked or int(gold.ids.max(initial=0)) >= self.shape[0]:
                raise InputError(f"{self.gold}: does not answer {asked:,} queries among {self.shape[0]:,} rows")
            if not has_distances(gold):
                raise InputError(f"{self.gold}: has no distances, which the format needs; gpuknn exact finds them")
            put_gold(file, gold, self.layout)
        if self.layout == ANN_BENCHMARKS:
            bits = self.dtype == np.uint64
            file.attrs.update({"type": "dense", "dimension": self.shape[1], "point_type": "bit" if bits else "float"})
            if said.get("metric") in DISTANCES:
                file.attrs["distance"] = DISTANCES[said["metric"]]

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
) -> Hdf5:
    """A bundle, or a file of the given layout with queries and a gold standard beside the rows.

    Raises InputError where queries and rows differ in their components, or `key` is no name.
    """
    usual = layout.rows if layout else "hamming" if dtype == np.uint64 else "emb"
    if key is not None:
        check_key(key, (layout.queries, layout.ids, layout.dists) if layout else ())
    if queries is not None and queries.shape[1] != shape[1]:
        raise InputError(f"{queries.where}: has {queries.shape[1]} components, the rows have {shape[1]}")
    return Hdf5(path, shape, dtype, b"", key=usual if key is None else key, layout=layout, queries=queries, gold=gold)


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


def put_gold(file: h5py.File, gold: Neighbors, layout: Layout) -> None:
    """Add a gold standard to an open file; ids are int32 where they fit."""
    highest = int(gold.ids.max(initial=0)) + layout.first_id
    file[layout.ids] = (gold.ids + layout.first_id).astype(np.int32 if highest < 2**31 else np.int64)
    file[layout.dists] = gold.dists
