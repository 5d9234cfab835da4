"""`gpuknn.convert`: vectors and gold standards from one format to another, in one call, as the command does it."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import DTypeLike

from gpuknn.errors import InputError
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.command import command_line
from gpuknn.jobs.convert.gold import convert_gold
from gpuknn.jobs.convert.job import Job
from gpuknn.jobs.convert.plan import plan_convert
from gpuknn.jobs.rewrite.run import run_rewrite
from gpuknn.progress import Listener, listening
from gpuknn.vectors.converted import rows_said, type_named
from gpuknn.vectors.names import one_name
from gpuknn.vectors.opening import are_paths
from gpuknn.vectors.written import Missing
from gpuknn.workers.crew import hire
from gpuknn.workers.workers import LOCAL

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Conversion:
    """What a conversion has written."""

    output: str
    """A path or URL."""
    error: float
    """The largest that rounding has made."""
    seconds: float


def convert(
    source: str | Path | Sequence[str | Path],
    destination: str | Path,
    *,
    to: str | None = None,
    dst_key: str | None = None,
    rows: str | range | None = None,
    dtype: DTypeLike | None = None,
    normalize: bool = False,
    scale: float | None = None,
    round: bool = False,
    missing: Missing = "refuse",
    ignore_ids: bool = False,
    queries_file: str | Path | None = None,
    gold: str | Path | None = None,
    distance: str | None = None,
    dists_as: str | None = None,
    compression: str | None = None,
    zarr_format: int | None = None,
    shard_rows: int | None = None,
    chunk_rows: int | None = None,
    workers: int | None = None,
    cluster: str | Path = LOCAL,
    client: "Client | None" = None,
    force: bool = False,
    fresh: bool = False,
    progress: bool | Listener = False,
) -> Conversion:
    """Convert vectors, or a gold standard, to another format: `gpuknn convert` as a function, with the same options.

    A conversion of vectors that was killed goes on with the same call; nothing half-written has the final name.

    Parameters
    ----------
    source, destination
        Paths, `FILE:KEY` (source) or URLs.  The source may be a list of them, or a name that stands for many files.
        The destination's name tells the format.
    to
        The format, if the destination's name does not tell it: h5, zarr, npy, fbin, f16bin, u8bin, i8bin, fvecs, bvecs,
        parquet, ann-benchmarks, sisap; of gold standards h5, sisap, ann-benchmarks, ibin, ivecs, parquet.
    dst_key
        The array's name in an HDF5 file, the column's in Parquet.
    rows
        `range(A, B)` or "A:B": rows A to B - 1 alone; of a gold standard, queries.
    dtype, normalize, scale, round
        The type of what is written; whether each row is divided by its length; what each component is then multiplied
        by; whether uint8 and int8 are rounded to whole numbers.
    missing, ignore_ids
        As in `exact_knn`.
    queries_file, gold, distance
        ann-benchmarks and sisap: queries and an answer to put beside the rows, and which distance the answer holds if
        its file does not tell.
    dists_as
        A gold standard gets other distances: of 1 - cosine an angle in radians (angle), or back (cosine); of squares of
        Euclidean distances these themselves (euclidean), or back (sqeuclidean); inner products, the largest first
        (dot).  Computed in float64, then rounded once.
    compression, zarr_format, shard_rows, chunk_rows
        none, zstd or blosc; 2 or 3; rows of a shard and of a chunk.
    workers, cluster, client
        Processes of this machine (by default threads of this one), a Dask cluster, or a `distributed.Client`, which is
        left as it was.
    force, fresh
        Replace a destination that exists; discard what an earlier, unfinished conversion has left.
    progress
        True for a bar in a terminal or a notebook, or a function that is told what happens.

    Returns
    -------
    Conversion
        `output`; `error`, the largest that rounding has made; `seconds`.

    Raises
    ------
    InputError
        The source cannot be converted so; nothing was written.
    RunError, OSError
        The same call goes on later.
    Interrupted
        A KeyboardInterrupt that says whether the same call goes on.

    Examples
    --------
    >>> import gpuknn
    >>> database, queries = gpuknn.subset_files("sample")
    >>> gpuknn.convert(database, "database.zarr").error
    0.0
    >>> gpuknn.convert(queries, "queries.npy", dtype="float16", rows=range(10)).error < 0.001
    True
    >>> gpuknn.open_vectors("queries.npy").shape
    (10, 384)
    """
    started = time.monotonic()
    if not isinstance(source, str | PathLike) and not are_paths(source):
        raise InputError(f"source: is a {type(source).__name__}, not a path; save an array with np.save first")
    job = Job(
        source=one_name(source) if are_paths(source) else str(source),
        missing=missing,
        ignore_ids=ignore_ids,
        rows=rows_said(rows),
        dtype=type_named(dtype),
        normalize=normalize,
        scale=None if scale is None else float(scale),
        round=round,
        to=to,
        dst_key=dst_key,
        queries_file=None if queries_file is None else str(queries_file),
        gold=None if gold is None else str(gold),
        distance=distance,
        dists_as=dists_as,
        compression=compression,
        zarr_format=zarr_format,
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
    )
    target = str(destination)
    if job.is_gold(target):
        if workers is not None or client is not None or str(cluster) != LOCAL:
            raise InputError(f"{source}: is a gold standard, which this process converts alone; leave out the workers")
        return Conversion(target, convert_gold(job, target, force).error, time.monotonic() - started)
    how = asdict(job) | {"workers": workers, "cluster": None if str(cluster) == LOCAL else cluster}
    command = command_line("convert", [how.pop("source"), target], how | {"force": force})
    crew = hire(cluster, workers=workers, client=client, computes=False)
    with interrupts_told(), listening(progress) as told:
        done = run_rewrite(plan_convert(job, target, crew, fresh, force, command), told)
    return Conversion(target, done.counted, done.seconds)
