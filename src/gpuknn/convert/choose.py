"""From the options of a conversion to the writer."""

from dataclasses import dataclass

import numpy as np

from gpuknn.convert.flat import bin_target, npy_target, vecs_target
from gpuknn.convert.formats import Format
from gpuknn.convert.target import Target
from gpuknn.errors import InputError
from gpuknn.vectors import Vectors
from gpuknn.vectors.location import is_url


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


TAKES = {
    "h5": {"key"},
    "ann-benchmarks": {"key", "queries", "gold"},
    "sisap": {"key", "queries", "gold"},
    "parquet": {"key", "compression"},
    "zarr": {"compression", "version", "chunk_rows", "shard_rows"},
}
OPTIONS = {"key": "--dst-key", "version": "--zarr-format", "chunk_rows": "--chunk-rows", "shard_rows": "--shard-rows"}


def choose_target(name: Format, path: str, shape: tuple[int, int], dtype: np.dtype, wishes: Wishes) -> Target:
    """The writer of a format; raises InputError where the format does not know what is wished."""
    for wish, value in vars(wishes).items():
        if value is not None and wish not in TAKES.get(name.name, set()):
            raise InputError(f"{OPTIONS.get(wish, '--' + wish)}: {name.name} files have no such thing; leave it out")
    if is_url(path) and name.name != "zarr":
        raise InputError(f"{path}: into an object store only Zarr is written")
    match name.name:
        case "zarr":
            from gpuknn.convert.zarr import zarr_target

            rows = wishes.chunk_rows, wishes.shard_rows
            return zarr_target(path, shape, dtype, *rows, wishes.compression or "none", wishes.version or 3)
        case "parquet":
            from gpuknn.convert.parquet import parquet_target

            return parquet_target(path, shape, dtype, wishes.key, wishes.compression or "none")
        case "h5" | "ann-benchmarks" | "sisap":
            from gpuknn.convert.hdf5 import choose_layout, hdf5_target

            layout = choose_layout(name.name, wishes.queries is not None)
            return hdf5_target(path, shape, dtype, wishes.key, layout, wishes.queries, wishes.gold)
        case "npy":
            return npy_target(path, shape, dtype)
        case "fvecs" | "bvecs":
            return vecs_target(path, shape, dtype)
    return bin_target(path, shape, dtype)
