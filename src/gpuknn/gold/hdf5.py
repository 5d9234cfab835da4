"""Gold standards in HDF5, laid out as those of the SISAP challenges or of ann-benchmarks.

`knns` (nq, k) int32 (int64 past 2^31 - 1 rows), rows counted from 1; `dists` (nq, k) float32 or float64; row i belongs
to query i, nearest first.  What describes the run stands in root attributes, so that the arrays' bytes depend on the
answer alone.  If the database's file gives its rows ids of its own, `ids` (nq, k) int64 holds these; `query_ids` (nq,)
those of the queries.  ann-benchmarks has `neighbors` counted from 0, and `distances`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError, in_our_words
from gpuknn.gold.distances import DISTANCES, NEGATED, OF_ANN_BENCHMARKS
from gpuknn.gold.gold import Gold, from_file, refuse_other_count
from gpuknn.gold.writer import Attributes, GoldWriter, Outline
from gpuknn.vectors.hdf5 import METADATA_BYTES, open_file, writing
from gpuknn.vectors.hdf5_chunks import check_written
from gpuknn.vectors.hdf5_links import refuse_links_out, refuse_outside
from gpuknn.vectors.raw import reserve
from gpuknn.vectors.vectors import KNOWN_NAMES
from gpuknn.vectors.written import AGAIN


@dataclass(frozen=True)
class Arrays:
    """The names of a layout's arrays, and the number of the first row."""

    ids: str
    dists: str
    own_ids: str
    query_ids: str
    first_id: int


SISAP = Arrays("knns", "dists", "ids", "query_ids", 1)
ANN_BENCHMARKS = Arrays("neighbors", "distances", "neighbors_id", "query_ids", 0)
LAYOUTS = (SISAP, ANN_BENCHMARKS)


def read_hdf5(path: Path, key: str | None) -> Gold:
    """Read the gold standard of a file, or of its group `key`; raises InputError if there is none."""
    with in_our_words(f"{path}: is not a readable HDF5 file"), open_file(path) as file:
        said = _attributes(file)
        group = _group(file, key, path)
        arrays = next((layout for layout in LAYOUTS if layout.ids in group), SISAP)
        where = f"{path}:{group.name.strip('/')}/" if group.name != "/" else f"{path}:"
        ids = _matrix(group, arrays.ids, where, "iu")
        dists = _matrix(group, arrays.dists, where, "fiu", ids.shape) if arrays.dists in group else None
        for name in (arrays.own_ids, arrays.query_ids):
            refuse_links_out(group, name, f"{where}{name}")
        named = arrays.own_ids in group and getattr(group[arrays.own_ids], "ndim", 0) == 2
        own_ids = _matrix(group, arrays.own_ids, where, "iu", ids.shape) if named else None
        asked = arrays.query_ids in group and getattr(group[arrays.query_ids], "ndim", 0) == 1
        query_ids = _matrix(group, arrays.query_ids, where, "iu", ids.shape[:1]) if asked else None
    refuse_other_count(ids, arrays.first_id, f"{where}{arrays.ids}")
    gold = from_file(
        ids,
        dists,
        arrays.first_id,
        distance=_distance(said, arrays, dists),
        own_ids=None if own_ids is None else np.where(ids < arrays.first_id, -1, own_ids.astype(np.int64)),
        query_ids=None if query_ids is None else query_ids.astype(np.int64),
        said=said,
    )
    negated = dists is not None and said.get("distance") == NEGATED
    return replace(gold, were_similarities=True) if negated else gold


def read_attributes(path: Path) -> dict[str, Any]:
    """What an HDF5 file says of itself in its root attributes; nothing if it is no HDF5 file."""
    try:
        with open_file(path) as file:
            return {name: _plain(value) for name, value in file.attrs.items()}
    except (OSError, RuntimeError, ValueError):
        return {}


def refuse_knns(values: Any, name: str) -> None:
    """Raise InputError if this is an array `knns` of an open file, which counts from 1; `name` is for messages."""
    if isinstance(values, h5py.Dataset) and values and str(values.name).rpartition("/")[2] == SISAP.ids:
        group = values.parent.name.strip("/")
        path = f"{values.file.filename}:{group}" if group else values.file.filename
        raise InputError(
            f'{name}: {SISAP.ids} of a file count from 1, and ids in arrays from 0; pass the path, "{path}"'
        )


def holds_gold_hdf5(path: Path, key: str | None, beside_rows: bool) -> bool:
    """Whether a file, or its group `key`, holds a gold standard, and `beside_rows` or nothing that could be rows."""
    try:
        with open_file(path) as file:
            refuse_links_out(file, key or "", str(path))
            group = file.get(key or "/")
            if not isinstance(group, h5py.Group):
                return False
            there = any(layout.ids in group for layout in LAYOUTS) or bool(not key and _groups(group))
            return there and (beside_rows or not any(name in group for name in KNOWN_NAMES))
    except (OSError, ValueError, RuntimeError):
        return False


class Hdf5Writer(GoldWriter):
    """`knns` and `dists`, in the group `group`, or the arrays of another layout."""

    HOLDS_OWN_IDS = HOLDS_QUERY_IDS = True

    def __init__(self, part: Path, outline: Outline, group: str = "/", arrays: Arrays = SISAP) -> None:
        super().__init__(part, outline)
        (nq, k), dists = outline.shape, outline.dists or np.dtype(np.float32)
        room = nq * k * (8 + dists.itemsize + 8 * (outline.highest_own_id is not None)) + 8 * nq + METADATA_BYTES
        part.touch()
        reserve(str(part), room)  # a disk that is too small is found here: within HDF5 it may crash the process
        with writing(part), h5py.File(part, "w", locking=False) as file:
            place_gold(file, group, outline, arrays)
        reserve(str(part), room)  # what is not needed goes as the file is closed
        self._file = h5py.File(part, "r+", locking=False)
        self._arrays, self._group = arrays, self._file[group]

    def write(self, first: int, gold: Gold) -> None:
        """Write a block."""
        with writing(self.part):
            put_gold(self._group, first, gold, self._arrays)

    def describe(self, attributes: Attributes) -> None:
        """Write root attributes."""
        with writing(self.part):
            self._file.attrs.update(attributes)

    def close(self) -> None:
        """Close the file."""
        with writing(self.part):
            self._file.close()


def place_gold(file: h5py.File, group: str, outline: Outline, arrays: Arrays) -> h5py.Group:
    """Make the arrays of a gold standard in a group of an open file."""
    place, (nq, k) = file.require_group(group), outline.shape
    narrow = outline.highest + arrays.first_id <= np.iinfo(np.int32).max
    place.create_dataset(arrays.ids, (nq, k), np.int32 if narrow else np.int64)
    place.create_dataset(arrays.dists, (nq, k), outline.dists)
    if outline.highest_own_id is not None:
        place.create_dataset(arrays.own_ids, (nq, k), np.int64)
    if outline.query_ids and arrays.query_ids not in place:
        place.create_dataset(arrays.query_ids, (nq,), np.int64)
    return place


def put_gold(group: h5py.Group, first: int, gold: Gold, arrays: Arrays) -> None:
    """Write the answers to the queries from `first` on; no neighbour is -1."""
    lines = slice(first, first + len(gold))
    group[arrays.ids][lines] = np.where(gold.ids < 0, -1, gold.ids + arrays.first_id)
    for name, part in ((arrays.dists, gold.dists), (arrays.own_ids, gold.own_ids), (arrays.query_ids, gold.query_ids)):
        if part is not None:
            group[name][lines] = part


def _attributes(file: h5py.File) -> dict[str, Any]:
    """What the file says of itself, in root attributes or in scalar arrays."""
    said = {name: _plain(value) for name, value in file.attrs.items()}
    for name in file:
        if file.get(name, getclass=True, getlink=True) is h5py.HardLink:
            item = file[name]
            if isinstance(item, h5py.Dataset) and item.shape == () and item.external is None:
                said[name] = _plain(item[()])
    return said


def _group(file: h5py.File, key: str | None, path: Path) -> h5py.Group:
    """The group called `key`; without a key the root, or the only group that holds a gold standard."""
    if key is not None:
        refuse_links_out(file, key, f"{path}:{key}")
        item = file.get(key)
        if not isinstance(item, h5py.Group):
            raise InputError(f"{path}: has no group {key!r} that would hold knns and dists{_offered(file, path)}")
        refuse_outside(item, file, f"{path}:{key}")
        return item
    if any(layout.ids in file for layout in LAYOUTS):
        return file
    found = _groups(file)
    if len(found) == 1:
        return file[found[0]]
    if found:
        raise InputError(f"{path}: holds several gold standards{_offered(file, path)}")
    return file


def _groups(file: h5py.Group) -> list[str]:
    """The groups of this very file that hold a gold standard."""
    found: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Group) and any(layout.ids in item for layout in LAYOUTS):
            found.append(name)

    file.visititems(visit)  # which follows no link out of the file
    return found


def _offered(file: h5py.File, path: Path) -> str:
    found = ", ".join(f"{path}:{name}" for name in _groups(file))
    return f"; name one of {found}" if found else ""


def _matrix(group: h5py.Group, name: str, where: str, kinds: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The array called `name`; raises InputError if it is no such array, or not all of it was written."""
    refuse_links_out(group, name, f"{where}{name}")
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.ndim != (2 if shape is None else len(shape)):
        raise InputError(f"{where}{name}: is no matrix; a gold standard holds knns and dists, (queries, neighbours)")
    refuse_outside(item, group.file, f"{where}{name}")
    if item.dtype.kind not in kinds:
        raise InputError(f"{where}{name}: holds {item.dtype}; ids are whole numbers, and distances are numbers")
    if shape is not None and item.shape != shape:
        raise InputError(f"{where}{name}: has the shape {item.shape}; it differs in shape from the ids, {shape}")
    if item.size:
        check_written(item, f"{where}{name}", AGAIN)
    values: np.ndarray = item[()]
    return values


def _distance(said: dict[str, Any], arrays: Arrays, dists: np.ndarray | None) -> str | None:
    """Which distance the numbers are, by what the file says."""
    if dists is None:
        return None
    told = said.get("distance")
    if arrays is ANN_BENCHMARKS:
        kind = OF_ANN_BENCHMARKS.get(str(told))
        counts = kind == "mean-hamming" and bool(np.any(dists > 1))  # some files hold numbers of bits
        return "hamming" if counts else kind
    if told in DISTANCES:
        return str(told)
    # Before gpuknn named distances, its files told the metric alone.
    return str(said["metric"]) if told is None and "gpuknn" in said and said.get("metric") in list(Metric) else None


def _plain(value: Any) -> Any:
    """An attribute as Python's own type."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
