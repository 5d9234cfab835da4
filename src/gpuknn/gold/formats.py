"""The formats of gold standards: which one a file's name tells, its reader, its writer."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.distances import DISTANCES, for_ann_benchmarks, said_of, said_to_ann_benchmarks
from gpuknn.gold.gold import JOB, Gold
from gpuknn.gold.hdf5 import ANN_BENCHMARKS, Hdf5Writer, holds_gold_hdf5, read_hdf5
from gpuknn.gold.ibin import IbinWriter, read_ibin
from gpuknn.gold.ivecs import IvecsWriter, read_ivecs
from gpuknn.gold.npy import is_ids_npy, read_npy, read_npz
from gpuknn.gold.parquet import ParquetWriter, is_neighbors_parquet, read_neighbors_parquet
from gpuknn.gold.writer import Attributes, GoldWriter, Outline, written
from gpuknn.storage.location import is_folder, is_url, split_key
from gpuknn.vectors.formats import HDF5, PARQUET

SUFFIXES = {
    **dict.fromkeys(HDF5, "h5"),
    **dict.fromkeys((".ibin", ".bin"), "ibin"),
    ".ivecs": "ivecs",
    **dict.fromkeys(PARQUET, "parquet"),
    ".npy": "npy",
    ".npz": "npz",
}
"""What tells a format; a file of another suffix is read as HDF5."""
READERS: dict[str, Callable[[Path], Gold]] = {
    "ibin": read_ibin,
    "ivecs": read_ivecs,
    "parquet": read_neighbors_parquet,
    "npy": read_npy,
    "npz": read_npz,
}
"""All but HDF5, which has groups."""
WRITERS: dict[str, type[GoldWriter]] = {
    "h5": Hdf5Writer,
    "sisap": Hdf5Writer,
    "ann-benchmarks": Hdf5Writer,
    "ibin": IbinWriter,
    "ivecs": IvecsWriter,
    "parquet": ParquetWriter,
}

EXPECTED = {"ann-benchmarks": ("cosine", "euclidean"), "ibin": ("cosine", "dot", "l2")}
"""Formats that cannot say of any distance that they hold it, and those that their readers expect."""


def read_gold(path: str | Path) -> Gold:
    """Read a gold-standard or result file.

    Parameters
    ----------
    path
        HDF5 with `knns` counted from 1 and `dists`, or ann-benchmarks' `neighbors` counted from 0 and `distances`; or,
        by suffix, .ibin or .bin, .ivecs, .parquet (`neighbors_id`), .npy, .npz.  `FILE:GROUP` names a group of an HDF5
        file (SISAP's itest, otest, allknn) that holds several.

    Returns
    -------
    Gold
        ids (nq, k) int64 from 0, -1 if there is no neighbour; dists (nq, k) as stored, None if there are none.

    Raises
    ------
    InputError
        The file is missing, is not of these formats, was written in part, or lacks ids and distances of one shape.

    Examples
    --------
    >>> import gpuknn, numpy as np
    >>> np.save("ids.npy", np.array([[4, 2], [1, -1]]))
    >>> gold = gpuknn.read_gold("ids.npy")
    >>> gold
    Gold(2 queries x 2, no distances)
    >>> gold.ids
    array([[ 4,  2],
           [ 1, -1]])
    """
    place, key = split_key(path)
    if is_url(place):
        raise InputError(f"{path}: results and gold standards are read from this machine's files; download it first")
    file = Path(place)
    if is_folder(file):
        raise InputError(f"{path}: is a folder, not a result or gold-standard file")
    reader = READERS.get(SUFFIXES.get(file.suffix.lower(), "h5"))
    if reader is not None and key is not None:
        raise InputError(f"{file}: holds one gold standard without a name; leave out the key {key!r}")
    gold = read_hdf5(file, key) if reader is None else reader(file)
    if 0 in gold.shape:
        raise InputError(f"{path}: is empty, it holds {gold.shape[0]} queries with {gold.shape[1]} neighbours each")
    return gold


def holds_gold(path: str | Path, beside_rows: bool = False) -> bool:
    """Whether a file, or the named group of an HDF5 file, holds a gold standard.

    `beside_rows`: even if it holds what could be rows, too.
    """
    place, key = split_key(path)
    file = Path(place)
    reader = READERS.get(SUFFIXES.get(file.suffix.lower(), "h5"))
    if not os.path.isfile(file):
        return False
    if reader is None:
        return holds_gold_hdf5(file, key, beside_rows)
    if reader is read_neighbors_parquet:
        return is_neighbors_parquet(file)
    return reader is not read_npy or is_ids_npy(file)


def gold_format(path: str | Path) -> str:
    """The format of a gold standard that is to be written; raises InputError if its name tells none."""
    name = SUFFIXES.get(Path(path).suffix.lower())
    if name not in WRITERS:
        fitting = ", ".join(suffix for suffix, known in SUFFIXES.items() if known in WRITERS)
        raise InputError(f"{path}: its name tells no format of gold standards; let it end in {fitting}")
    return name


def save_gold(gold: Gold, name: str, path: Path, group: str | None, said: Attributes) -> None:
    """Write a gold standard in the format called `name`, whole or not at all.

    `group`: that of SISAP's files; `said`: root attributes.  Raises InputError if the format cannot hold it.
    """
    if gold.dists is None and name in ("h5", "sisap", "ann-benchmarks"):
        raise InputError(f"{path}: {name} holds distances, and the source has none; gpuknn exact finds them")
    more: dict[str, Any] = {}
    if name == "ann-benchmarks":
        gold, more["arrays"] = for_ann_benchmarks(gold, str(path)), ANN_BENCHMARKS
    if gold.distance == "angle":
        check_expected(gold.distance, name, str(path))
    if name == "sisap":
        more["group"] = "itest" if group is None else group
    attributes = {key: value for key, value in said.items() if key != JOB}  # this may not be the job's answer whole
    attributes |= said_to_ann_benchmarks(gold) if name == "ann-benchmarks" else said_of(gold)
    with written(path, WRITERS[name], Outline.of(gold), **more) as file:
        file.write(0, gold)
        file.describe(attributes)


def check_expected(distance: str, name: str, where: str) -> None:
    """Raise InputError if readers of the format called `name` would take such distances for others."""
    if distance not in EXPECTED.get(name, DISTANCES):
        raise InputError(
            f"{where}: readers of {name} files expect other numbers than {DISTANCES[distance]}; write an h5 file, "
            "which says what it holds"
        )


def for_target(gold: Gold, name: str, where: str) -> Gold:
    """The same without ids of queries that are their numbers; raises InputError if the format loses those that are not.

    `where`: the source, for messages.
    """
    if not gold.in_order and not WRITERS[name].HOLDS_QUERY_IDS:
        raise InputError(f"{where}: its lines are not in the order of the queries' ids, for which {name} has no place")
    if gold.query_ids is not None and np.array_equal(gold.query_ids, np.arange(len(gold))):
        return replace(gold, query_ids=None)
    return gold
