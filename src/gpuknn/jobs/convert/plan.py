"""What a conversion will write, and from what; nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuknn.errors import InputError, RunError, given, option, same_again, whole_number
from gpuknn.jobs.convert.choose import choose_target
from gpuknn.jobs.convert.formats import Format, choose_dtype, choose_format
from gpuknn.jobs.convert.job import Job
from gpuknn.storage.destination import check_destination, lacking
from gpuknn.storage.durable import digest
from gpuknn.storage.location import is_url, split_key
from gpuknn.storage.record import Record
from gpuknn.vectors import Vectors, open_vectors
from gpuknn.vectors.converted import Converted, rows_named
from gpuknn.vectors.target import Target
from gpuknn.workers.crew import Crew


@dataclass(frozen=True)
class Plan:
    """How a conversion will be done."""

    job: Job
    destination: str
    format: Format
    rows: Converted
    target: Target
    """At the destination; a file is written under another name first."""
    beside: tuple[str, ...]
    """Other files that the target takes something from."""
    crew: Crew
    record: Record
    fresh: bool
    """Whether what an earlier conversion has left is thrown away."""
    replace: bool
    """Whether a destination that is there may go."""
    command: Sequence[str]
    """Words of a command line that go on with the conversion."""

    @property
    def title(self) -> str:
        """What is going to be done, in a line."""
        rows = self.rows
        (n, d), was = rows.shape, rows.source.dtype
        return f"gpuknn convert: {n:,} rows x {d} {was} to {self.format.name}, {rows.dtype}"

    @property
    def facts(self) -> dict[str, str | int]:
        """The plan for a program."""
        (n, d), dtype = self.rows.shape, self.rows.dtype
        return {"format": self.format.name, "rows": n, "components": d, "dtype": dtype.name}

    @property
    def sources(self) -> list[str]:
        """All that is read, which must not be written to."""
        return [*self.rows.source.sources, *self.beside]


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
    job.refuse(["dists_as"], f"{job.source} holds vectors; a gold standard is converted by itself")
    if not job.gold:
        job.refuse(["distance"], f"{job.source} holds vectors and no distances")
    source = open_vectors(job.source, missing=job.missing)
    _refuse_too_large(source)
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
    record = record_of(destination)
    # Then what is there may be its own.
    going_on = record.begun if is_url(destination) else record.exists and not fresh
    check_destination(destination, [*source.sources, *beside], replace or going_on, stores=True)
    target = choose_target(kind, job, destination, rows)
    return Plan(job, destination, kind, rows, target, beside, crew, record, fresh, replace, command)


def check_room(target: Target, folder: Path) -> None:
    """Raise RunError if the disk is too small; compressed targets are found out as they are written."""
    if is_url(target.path) or getattr(target, "compression", "none") != "none":
        return
    if said := lacking(folder, target.nbytes):
        raise RunError(f"{said}; make room and run {same_again()} again")


def _refuse_too_large(source: Vectors) -> None:
    """Raise InputError if this machine has not the memory to decode the source, before it is tried."""
    need = source.held_bytes(1)
    if not need:
        return
    from gpuknn.workers.memory import machine_memory

    there = machine_memory()
    if need > there:
        raise InputError(
            f"{source.where}: takes {need / 2**30:.2f} GiB of memory to be decoded, this machine has "
            f"{there / 2**30:.2f} GiB; convert it on a larger one"
        )


def record_of(destination: str) -> Record:
    """Beside the destination; of one in an object store in the working folder, with a hash of the URL in its name."""
    if not is_url(destination):
        return Record.beside(Path(destination))
    url = destination.rstrip("/")
    return Record(Path(f"{url.rpartition('/')[2]}.{digest(url.encode())[:8]}.run"))
