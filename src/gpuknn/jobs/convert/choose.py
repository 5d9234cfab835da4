"""From a job and a format to the writer."""

from gpuknn.errors import check_known
from gpuknn.jobs.convert.job import Job
from gpuknn.jobs.rewrite.formats import Format
from gpuknn.jobs.rewrite.targets import Layout, ids_to_write, target_of
from gpuknn.storage.location import is_url
from gpuknn.vectors.converted import Converted
from gpuknn.vectors.target import Target

SUITE = {"dst_key", "queries_file", "gold", "distance"}
TAKES = {
    "h5": {"dst_key"},
    "ann-benchmarks": SUITE,
    "sisap": SUITE,
    "parquet": {"dst_key", "compression"},
    "zarr": {"compression", "zarr_format", "chunk_rows", "shard_rows"},
}
"""Options that only these formats know."""


def choose_target(kind: Format, job: Job, path: str, rows: Converted) -> Target:
    """The writer of a format; raises InputError if the format does not hold what is asked for."""
    ids = ids_to_write(kind, rows, job.ignore_ids)
    check_known("compression", job.compression or "none", ("none", "zstd", "blosc"))
    check_known("zarr_format", job.zarr_format or 3, (2, 3))
    only_others = set().union(*TAKES.values()) - TAKES.get(kind.name, set())
    job.refuse([name for name in job.given() if name in only_others], f"{kind.name} files have no such thing")
    if kind.name in ("ann-benchmarks", "sisap") and not is_url(path):
        from gpuknn.jobs.convert.layouts import suite_target

        return suite_target(kind.name, path, rows, ids, job)
    cut = job.chunk_rows, job.shard_rows
    layout = Layout(job.dst_key, job.compression or "none", job.zarr_format or 3, *cut)
    return target_of(kind, path, rows, ids, layout)
