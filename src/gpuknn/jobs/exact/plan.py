"""How a job is cut into blocks of queries and shards of rows, and what it will take."""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.bench.kept import Rates, rates_for
from gpuknn.engine.check import CHECKED_VALUES
from gpuknn.engine.device import Device
from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError, option
from gpuknn.gold.formats import WRITERS, gold_format
from gpuknn.gold.writer import Outline, check_outline
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.predict import Prediction, predict
from gpuknn.jobs.exact.tree import most_parts
from gpuknn.storage.destination import check_destination, lacking
from gpuknn.storage.record import Record
from gpuknn.workers.crew import Crew
from gpuknn.workers.memory import memory_budget
from gpuknn.workers.workers import Workers

SHARD_OPERATIONS = 2e13
"""Multiplications and additions of one shard of a GPU by default: a second or so."""
SHARD_SECONDS = 20.0
"""Of one shard of a processor by default, as predicted."""
CORE_OPERATIONS = 5e10
"""Multiplications and additions that a core is taken to do in a second if nobody has measured it."""
PARTIAL_SHARE = 0.05
"""Bytes of a processor's partial result for each byte of its shard's rows, at most."""
PROCESS_BYTES = 300 * 2**20
"""What a process takes before it does anything: Python, NumPy, Numba, perhaps Dask."""
NOTED_BYTES = 2**28
"""To decode a file whose chunks, shards or row groups are small takes less."""


@dataclass(frozen=True)
class Wishes:
    """What may be said of how a job is done; the answer's bytes do not depend on it."""

    memory: str | None = None
    """Of all processes together, or of each worker of a cluster."""
    shard_rows: int | None = None
    rates: Path | None = None
    """A file of rates to predict by."""
    run_dir: Path | None = None
    fresh: bool = False
    """Whether earlier partial results are thrown away."""
    force: bool = False
    """Whether an output that is there may go."""
    performance_report: Path | None = None
    """A file for Dask's report."""
    command: Sequence[str] = ()
    """Words of a command line that go on with the run."""


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How a job will be done."""

    job: Job
    output: Path
    crew: Crew
    wishes: Wishes
    rates: Rates | None
    """None if nobody has measured the device."""
    block: int
    """Queries at once; each block is a pass over the database."""
    shard_rows: int
    check_threads: int
    """That check the rows before work begins."""

    @property
    def record(self) -> Record:
        """Where finished shards are kept."""
        return _record(self.output, self.wishes)

    @property
    def passes(self) -> int:
        """Over the database."""
        return -(-len(self.job.queries) // self.block)

    @property
    def edges(self) -> tuple[int, ...]:
        """Rows at which shards end if they can: where files begin.

        If several workers have no more than a shard each, shards are cut evenly, so that no worker waits for others.
        """
        database, workers = self.job.database, self.crew.workers.count
        few = 1 < -(-len(database) // self.shard_rows) <= workers
        return (0, len(database)) if few else database.file_edges

    @property
    def shards(self) -> int:
        """Of each pass."""
        return len(cut(len(self.job.database), [], self.shard_rows, self.edges))

    @property
    def memory(self) -> int:
        """Bytes that each worker takes."""
        return worker_bytes(self.job, self.block, self.crew.workers.device)

    @property
    def bytes_read(self) -> int:
        """Of rows, the check of all rows included."""
        return self.job.database.nbytes * (self.passes + 1)

    @property
    def operations(self) -> float:
        """Multiplications and additions of all scores."""
        return self.job.operations(len(self.job.database))

    @property
    def prediction(self) -> Prediction | None:
        """None if nobody has measured the device."""
        return predict(self.job, self.crew.workers, self.passes, self.rates) if self.rates else None

    @property
    def seconds(self) -> float | None:
        """That the whole run is predicted to take; None if nobody has measured the device (`gpuknn doctor --full`)."""
        return self.prediction.seconds if self.prediction else None

    @property
    def title(self) -> str:
        """What is going to be done, in a line."""
        database, workers = self.job.database, self.crew.workers
        return (
            f"gpuknn exact: {len(database):,} rows x {database.shape[1]} {database.dtype}, "
            f"{len(self.job.queries):,} queries, k = {self.job.k}, {self.job.metric.value}, "
            f"on {workers.count} x {workers.device.name}"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The plan for a program, in plain JSON values."""
        job, workers, prediction = self.job, self.crew.workers, self.prediction
        return {
            "database": job.database.where,
            "rows": len(job.database),
            "components": job.database.shape[1],
            "dtype": job.database.dtype.name,
            **({"files": job.database.files_told} if job.database.files_told else {}),
            "queries": len(job.queries),
            "k": job.k,
            "metric": job.metric.value,
            "device": workers.device.name,
            "workers": workers.count,
            "memory_per_worker": self.memory,
            "passes": self.passes,
            "shards": self.shards,
            "shard_rows": self.shard_rows,
            "bytes_read": self.bytes_read,
            "operations": self.operations,
            "answer_bytes": job.answer_bytes,
            "predicted_seconds": prediction and round(prediction.seconds, 1),
            "limited_by": prediction and prediction.limit,
            "run_dir": str(self.record.path),
            "output": str(self.output),
        }

    def __repr__(self) -> str:
        """A table for a person."""
        facts, lines = self.facts, []
        for name, value in facts.items():
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value
            shown = "unknown: gpuknn doctor --full measures it" if value is None else shown
            lines.append(f"{name.replace('_', ' '):<{max(map(len, facts))}}  {shown}")
        return "\n".join(lines)


def planned(job: Job, output: Path, crew: Crew, wishes: Wishes) -> Plan:
    """Cut the work so that it fits into memory; nothing is started or written.

    Raises InputError if it cannot fit, the output cannot be written or hold the answer, or a file of rates is none.
    """
    check_output(output, [*job.database.sources, *job.queries.sources], wishes)
    check_outline(output, WRITERS[gold_format(output)], outline(job))
    return _cut_for(crew, job, output, wishes)


def check_output(output: Path, sources: Sequence[str], wishes: Wishes) -> None:
    """Raise InputError if the output cannot be written, or must not be; `sources` are read meanwhile."""
    resumes = _record(output, wishes).exists and not wishes.fresh  # then the output may be that run's own
    check_destination(str(output), sources, wishes.force or resumes, stores=False)


def replanned(plan: Plan, crew: Crew) -> Plan:
    """The same for the workers that came, if they are not those that were counted on."""
    return plan if crew is plan.crew else _cut_for(crew, plan.job, plan.output, plan.wishes)


def check_room(plan: Plan) -> None:
    """Raise InputError if the disks cannot hold the partial results still to come, or the answer."""
    run_dir, folder, answer = plan.record.path, plan.output.parent, plan.job.answer_bytes
    kept = sum(file.stat().st_size for file in run_dir.glob("*/*.bin")) if run_dir.is_dir() else 0
    count = plan.crew.workers.count
    replaced = answer // plan.passes * count  # what is written of a shard so far stays until more of it is on disk
    partial = max(0, answer * most_parts(plan.shards, count) + replaced - kept)
    parent = next(above for above in (run_dir, *run_dir.absolute().parents) if above.is_dir())
    same = os.stat(parent).st_dev == os.stat(folder).st_dev
    for place, need in ((parent, partial + answer * same), (folder, answer)):
        if said := lacking(place, need):
            raise InputError(said)


def outline(job: Job) -> Outline:
    """What a writer of the answer must know."""
    own_id = None if job.ids is None else job.ids.highest
    highest = len(job.database) - 1
    return Outline((len(job.queries), job.k), highest, np.dtype(job.dists), own_id, job.query_ids is not None)


def _record(output: Path, wishes: Wishes) -> Record:
    return Record(wishes.run_dir) if wishes.run_dir else Record.beside(output)


def _cut_for(crew: Crew, job: Job, output: Path, wishes: Wishes) -> Plan:
    workers = crew.workers
    kind = workers.device.kind
    rates = None if job.metric is Metric.HAMMING else rates_for(kind, job.database, wishes.rates)
    budget = workers.memory if workers.memory and not wishes.memory else memory_budget(wishes.memory)
    client = 0 if crew.threads else PROCESS_BYTES  # 0: the one worker is a thread of it
    block = queries_at_once(job, budget, workers.count if crew.local else 1, workers.device, client)
    shards = -(-len(job.database) // (wishes.shard_rows or shard_rows(job, workers, block, rates)))
    rows = -(-len(job.database) // shards)
    return Plan(job, output, crew, wishes, rates, block, rows, check_threads(job, budget, workers.cores))


def shard_rows(job: Job, workers: Workers, block: int, rates: Rates | None) -> int:
    """Rows of a shard where nobody says: at least one shard for every worker.

    A processor's shard takes SHARD_SECONDS, so far as its partial result is no larger than PARTIAL_SHARE of its rows:
    merging would cost too much.  A GPU's takes SHARD_OPERATIONS.
    """
    device, row_operations = workers.device, job.operations(1) * block / len(job.queries)
    by_workers = -(-len(job.database) // workers.count)
    if device.kind != "cpu":
        return max(1, min(int(SHARD_OPERATIONS / row_operations), by_workers))
    rate = (rates.product if rates else CORE_OPERATIONS) * device.units
    partial, row_bytes = job.answer_bytes * block / len(job.queries), job.database.nbytes / len(job.database)
    rows = max(SHARD_SECONDS * rate / row_operations, partial / PARTIAL_SHARE / row_bytes)
    return max(1, min(int(rows), by_workers))


def queries_at_once(job: Job, memory: int, workers: int, device: Device, client: int) -> int:
    """The largest block of queries for which all processes together stay within `memory` bytes.

    `client`: bytes of this process, if it is none of the workers.  Each block is one pass over the database.  Raises
    InputError where not even one query fits, or this process could not check the rows.
    """
    d = job.database.shape[1]
    fixed = worker_bytes(job, 0, device)
    each = worker_bytes(job, 1, device) - fixed
    room = (memory - client) // workers - fixed
    need = max(workers * (fixed + each) + client, _checking_bytes(job, 1))
    if memory < need or room < each:
        raise InputError(_too_little(job, memory, need, workers, device))
    passes = -(-len(job.queries) // min(room // each, device.most_queries(job.searched_k, d)))
    return -(-len(job.queries) // passes)


def worker_bytes(job: Job, queries: int, device: Device) -> int:
    """What a worker takes for so many queries at once; what is held to decode queries stays there meanwhile."""
    rows = job.database
    scan = device.memory(queries, job.searched_k, rows.shape[1], rows.dtype.itemsize)
    return PROCESS_BYTES + scan + job.queries.held_bytes(1) + rows.held_bytes(device.readers)


def check_threads(job: Job, memory: int, cores: int) -> int:
    """Threads, at most one for each core, with which this process checks the rows within `memory` bytes."""
    return next((n for n in range(cores, 1, -1) if _checking_bytes(job, n) <= memory), 1)


def _checking_bytes(job: Job, threads: int) -> int:
    """What this process takes as it checks the rows, before there are workers."""
    held = max(job.queries.held_bytes(threads), job.database.held_bytes(threads))
    return PROCESS_BYTES + threads * CHECKED_VALUES * 2 * job.database.dtype.itemsize + held


def _too_little(job: Job, memory: int, need: int, workers: int, device: Device) -> str:
    """What to say where `memory` is less than is needed, in GiB rounded up: so much is enough."""
    asked, needed = memory / 2**30, -(-need * 100 // 2**30) / 100
    larger = max((job.queries, job.database), key=lambda vectors: vectors.held_bytes(device.readers))
    held = larger.held_bytes(device.readers)
    line = f"{option('memory', f'{asked:.2f} GiB')}: {workers} worker(s) need at least {needed:.2f} GiB"
    if held > NOTED_BYTES:
        line += f", {held / 2**30:.2f} GiB of it each to decode {larger.where}"
        return f"{line}; give more, or write that file anew with smaller pieces (gpuknn convert)"
    return line


def blocks(length: int, size: int) -> Iterator[range]:
    """range(length) in runs of `size`, the last one shorter."""
    for start in range(0, length, size):
        yield range(start, min(start + size, length))


def cut(rows: int, done: Iterable[range], length: int, edges: Sequence[int] = ()) -> list[range]:
    """The shards still to do: what `done` leaves of `rows` rows, in runs of at most `length`.

    A run is made of whole files, or lies within one; `edges` are the rows with which files begin.
    """
    shards: list[range] = []
    start = 0
    for part in [*sorted(done, key=lambda part: part.start), range(rows, rows)]:
        if start < part.start:
            inner = edges[bisect_right(edges, start) : bisect_left(edges, part.start)]
            shards += _runs([start, *inner, part.start], length)
        start = max(start, part.stop)
    return shards


def _runs(edges: Sequence[int], length: int) -> Iterator[range]:
    """Runs of at most `length` rows: of whole files, or even parts of a file that is longer."""
    start = edges[0]
    for begin, end in pairwise(edges):
        if start < begin and end - start > length:
            yield range(start, begin)
            start = begin
        if end - start > length:
            pieces = -(-(end - start) // length)
            inner = [start + (end - start) * i // pieces for i in range(pieces + 1)]
            yield from (range(a, b) for a, b in pairwise(inner))
            start = end
    if start < edges[-1]:
        yield range(start, edges[-1])
