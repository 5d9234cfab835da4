"""From a job and a format to the writer."""

from gpuknn.errors import InputError, check_known, option
from gpuknn.jobs.convert.formats import Format
from gpuknn.jobs.convert.job import Job
from gpuknn.storage.location import is_url
from gpuknn.vectors.converted import Converted
from gpuknn.vectors.fbin import fbin_target
from gpuknn.vectors.npy import npy_target
from gpuknn.vectors.target import Target
from gpuknn.vectors.vecs import vecs_target

SUITE = {"dst_key", "queries_file", "gold", "distance"}
TAKES = {
    "h5": {"dst_key"},
    "ann-benchmarks": SUITE,
    "sisap": SUITE,
    "parquet": {"dst_key", "compression"},
    "zarr": {"compression", "zarr_format", "chunk_rows", "shard_rows"},
}
"""Options that only these formats know."""
HOLD_IDS = ("h5", "ann-benchmarks", "sisap", "parquet")


def choose_target(kind: Format, job: Job, path: str, rows: Converted) -> Target:
    """The writer of a format; raises InputError if the format does not hold what is asked for."""
    ids = None if job.ignore_ids else rows.row_ids()
    if ids is not None and kind.name not in HOLD_IDS:
        raise InputError(
            f"{ids.where}: gives the rows ids of their own, and gpuknn writes no ids to {kind.name}; write .h5 or "
            f".parquet, or leave the ids out with {option('ignore_ids', True)}"
        )
    check_known("compression", job.compression or "none", ("none", "zstd", "blosc"))
    check_known("zarr_format", job.zarr_format or 3, (2, 3))
    only_others = set().union(*TAKES.values()) - TAKES.get(kind.name, set())
    job.refuse([name for name in job.given() if name in only_others], f"{kind.name} files have no such thing")
    if is_url(path) and kind.name != "zarr":
        raise InputError(f"{path}: into an object store only Zarr is written")
    shape, dtype = rows.shape, rows.dtype
    match kind.name:
        case "zarr":
            from gpuknn.vectors.zarr import zarr_target

            cut = job.chunk_rows, job.shard_rows
            return zarr_target(path, shape, dtype, *cut, job.compression or "none", job.zarr_format or 3)
        case "parquet":
            from gpuknn.vectors.parquet import parquet_target

            return parquet_target(path, shape, dtype, job.dst_key, job.compression or "none", ids)
        case "h5":
            from gpuknn.vectors.hdf5 import hdf5_target

            return hdf5_target(path, shape, dtype, job.dst_key, ids)
        case "ann-benchmarks" | "sisap":
            from gpuknn.jobs.convert.layouts import suite_target

            return suite_target(kind.name, path, rows, ids, job)
        case "npy":
            return npy_target(path, shape, dtype)
        case "fvecs" | "bvecs":
            return vecs_target(path, shape, dtype)
    return fbin_target(path, shape, dtype)
