"""What a conversion will write, and from what; nothing is written."""

from collections.abc import Sequence

import numpy as np

from gpuknn.errors import InputError, given, option, whole_number
from gpuknn.jobs.convert.choose import choose_target
from gpuknn.jobs.convert.job import Job
from gpuknn.jobs.rewrite.formats import choose_dtype, choose_format
from gpuknn.jobs.rewrite.plan import Plan, record_at, refuse_too_large
from gpuknn.storage.location import split_key
from gpuknn.vectors import open_vectors
from gpuknn.vectors.converted import Converted, rows_named
from gpuknn.workers.crew import Crew
from gpuknn.workers.memory import memory_budget


def plan_convert(
    job: Job, destination: str, crew: Crew, fresh: bool = False, replace: bool = False, command: Sequence[str] = ()
) -> Plan:
    """Choose the writer and look at the source's header.

    Raises InputError if the source cannot be read, the format does not hold what is asked for, or nothing can be
    written to the destination.
    """
    kind = choose_format(destination, job.to)
    cut = given({"shard_rows": job.shard_rows, "chunk_rows": job.chunk_rows})
    job = Job.of(vars(job) | {name: whole_number(name, value) for name, value in cut.items()})
    source = open_vectors(job.source, missing=job.missing)
    job.refuse(["dists_as"], f"{job.source} holds vectors; a gold standard is converted by itself")
    if not job.gold:
        job.refuse(["distance"], f"{job.source} holds vectors and no distances")
    refuse_too_large(source)
    some = rows_named(job.rows, len(source))
    dtype = np.dtype(choose_dtype(kind, job.dtype, source.dtype.name, destination))
    rows = Converted.of(source, some, dtype, job.normalize, job.scale, job.round)
    beside = tuple(str(split_key(path)[0]) for path in (job.queries_file, job.gold) if path)
    for name in ("scale", "normalize", "rows"):
        if beside and name in job.given():
            raise InputError(
                f"{option(name)}: would change the rows and not {beside[0]}; convert each file by itself, "
                "then put together"
            )
    record = record_at(destination, [*source.sources, *beside], replace, fresh)
    target = choose_target(kind, job, destination, rows)
    how = crew, record, fresh, replace, command, memory_budget(None)
    return Plan("convert", job, destination, kind, rows, target, beside, *how)
