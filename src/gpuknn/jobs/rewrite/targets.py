"""From a format to its writer."""

from dataclasses import dataclass

from gpuknn.errors import InputError, option
from gpuknn.jobs.rewrite.formats import Format
from gpuknn.storage.location import is_url
from gpuknn.vectors.derived import Derived
from gpuknn.vectors.fbin import fbin_target
from gpuknn.vectors.ids import RowIds
from gpuknn.vectors.npy import npy_target
from gpuknn.vectors.target import Target
from gpuknn.vectors.vecs import vecs_target

HOLD_IDS = ("h5", "ann-benchmarks", "sisap", "parquet")


@dataclass(frozen=True)
class Layout:
    """How the rows lie in the file, where the format leaves a choice."""

    key: str | None = None
    compression: str = "none"
    zarr_format: int = 3
    chunk_rows: int | None = None
    shard_rows: int | None = None


def ids_to_write(kind: Format, rows: Derived, ignore_ids: bool) -> RowIds | None:
    """The rows' own ids, if they have some; raises InputError if the format has no place for them."""
    ids = None if ignore_ids else rows.row_ids()
    if ids is not None and kind.name not in HOLD_IDS:
        raise InputError(
            f"{ids.where}: gives the rows ids of their own, and gpuknn writes no ids to {kind.name}; write .h5 or "
            f".parquet, or leave the ids out with {option('ignore_ids', True)}"
        )
    return ids


def target_of(kind: Format, path: str, rows: Derived, ids: RowIds | None, layout: Layout) -> Target:
    """The writer of a format that holds vectors alone; raises InputError if it does not hold what is asked for."""
    if is_url(path) and kind.name != "zarr":
        raise InputError(f"{path}: into an object store only Zarr is written")
    shape, dtype = rows.shape, rows.dtype
    match kind.name:
        case "zarr":
            from gpuknn.vectors.zarr import zarr_target

            cut = layout.chunk_rows, layout.shard_rows
            return zarr_target(path, shape, dtype, *cut, layout.compression, layout.zarr_format)
        case "parquet":
            from gpuknn.vectors.parquet import parquet_target

            return parquet_target(path, shape, dtype, layout.key, layout.compression, ids)
        case "h5":
            from gpuknn.vectors.hdf5 import hdf5_target

            return hdf5_target(path, shape, dtype, layout.key, ids)
        case "npy":
            return npy_target(path, shape, dtype)
        case "fvecs" | "bvecs":
            return vecs_target(path, shape, dtype)
    return fbin_target(path, shape, dtype)
