"""From the options of a conversion to the writer."""

from dataclasses import dataclass

import numpy as np

from gpuknn.errors import InputError
from gpuknn.jobs.convert.formats import Format
from gpuknn.storage.location import is_url
from gpuknn.vectors import Vectors
from gpuknn.vectors.fbin import fbin_target
from gpuknn.vectors.ids import RowIds
from gpuknn.vectors.npy import npy_target
from gpuknn.vectors.target import Target
from gpuknn.vectors.vecs import vecs_target


@dataclass(frozen=True)
class Wishes:
    """What may be asked of a writer, each of some formats only."""

    key: str | None = None
    """The array's name in HDF5, the column's in Parquet."""
    compression: str | None = None
    version: int | None = None
    """Of Zarr."""
    chunk_rows: int | None = None
    shard_rows: int | None = None
    queries: Vectors | None = None
    gold: str | None = None
    distance: str | None = None
    """Which distances the gold standard holds, if it does not tell."""
    ids: RowIds | None = None
    """What the source calls its rows, if that is not their numbers."""


TAKES = {
    "h5": {"key", "ids"},
    "ann-benchmarks": {"key", "queries", "gold", "distance", "ids"},
    "sisap": {"key", "queries", "gold", "distance", "ids"},
    "parquet": {"key", "compression", "ids"},
    "zarr": {"compression", "version", "chunk_rows", "shard_rows"},
}
OPTIONS = {
    "key": "--dst-key",
    "queries": "--queries-file",
    "version": "--zarr-format",
    "chunk_rows": "--chunk-rows",
    "shard_rows": "--shard-rows",
}


def choose_target(
    name: Format, path: str, shape: tuple[int, int], dtype: np.dtype, wishes: Wishes, bits: int | None = None
) -> Target:
    """The writer of a format; raises InputError if the format does not know what is wished.

    `bits`: of a sketch.
    """
    if wishes.ids is not None and "ids" not in TAKES.get(name.name, set()):
        raise InputError(
            f"{wishes.ids.where}: gives the rows ids of their own, and gpuknn writes no ids to {name.name}; write .h5 "
            "or .parquet, or leave the ids out with --ignore-ids"
        )
    for wish, value in vars(wishes).items():
        if value is not None and wish not in TAKES.get(name.name, set()):
            raise InputError(f"{OPTIONS.get(wish, '--' + wish)}: {name.name} files have no such thing; leave it out")
    if is_url(path) and name.name != "zarr":
        raise InputError(f"{path}: into an object store only Zarr is written")
    match name.name:
        case "zarr":
            from gpuknn.vectors.zarr import zarr_target

            rows = wishes.chunk_rows, wishes.shard_rows
            return zarr_target(path, shape, dtype, *rows, wishes.compression or "none", wishes.version or 3)
        case "parquet":
            from gpuknn.vectors.parquet import parquet_target

            return parquet_target(path, shape, dtype, wishes.key, wishes.compression or "none", wishes.ids)
        case "h5":
            from gpuknn.vectors.hdf5 import hdf5_target

            return hdf5_target(path, shape, dtype, wishes.key, wishes.ids)
        case "ann-benchmarks" | "sisap":
            from gpuknn.jobs.convert import layouts

            sisap = layouts.SISAP if wishes.queries is not None else layouts.SISAP_ALL_KNN
            layout = sisap if name.name == "sisap" else layouts.ANN_BENCHMARKS
            beside = wishes.queries, wishes.gold, wishes.distance, wishes.ids
            return layouts.suite_target(path, shape, dtype, layout, wishes.key, *beside, bits)
        case "npy":
            return npy_target(path, shape, dtype)
        case "fvecs" | "bvecs":
            return vecs_target(path, shape, dtype)
    return fbin_target(path, shape, dtype)
