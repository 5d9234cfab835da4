"""What is to be done, and how it is cut: a job, its blocks of queries, its shards of rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from gpuknn.engine.check import CHECKED_VALUES
from gpuknn.engine.device import Device
from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError
from gpuknn.storage.durable import digest
from gpuknn.vectors import Vectors, file_identity, file_state
from gpuknn.vectors.ids import RowIds

RESULT_VERSION = 1
"""Raised when the answer's bytes change, so that older partial results are not taken for today's."""
SHARD_OPERATIONS = 2e13
"""Multiplications and additions of one shard by default: a minute or so of a laptop, a second of a GPU."""
PROCESS_BYTES = 300 * 2**20
"""What a process takes before it does anything: Python, NumPy, Numba, Dask."""
NOTED_BYTES = 2**28
"""To decode a file whose chunks, shards or row groups are small takes less."""


class SelfJoin(StrEnum):
    """Where the queries are the rows of the database: what becomes of a row in its own answer."""

    NO = "no"
    LEFT_OUT = "left out"
    FIRST = "first"


@dataclass(frozen=True)
class Job:
    """The question, by file."""

    database: Vectors
    queries: Vectors
    k: int
    metric: Metric
    dists: str
    self_join: SelfJoin = SelfJoin.NO
    ids: RowIds | None = None
    """What the database's file calls its rows, if that is not their numbers; written beside the answer."""
    query_ids: RowIds | None = None

    @property
    def searched_k(self) -> int:
        """Neighbours to search for: a row that stands first in its own answer need not be found."""
        return self.k - (self.self_join is SelfJoin.FIRST)

    def fingerprint(self) -> str:
        """32 hexadecimal digits of everything that decides the answer: equal for equal answers."""
        files = file_identity(self.database), file_identity(self.queries)
        named = ("ids",) * (self.ids is not None or self.query_ids is not None)
        parts = RESULT_VERSION, *files, self.k, self.metric.value, self.dists, self.self_join.value, *named
        return digest(repr(parts).encode())

    def file_state(self) -> str:
        """Differs once something was written to the files."""
        return f"{file_state(self.database)} {file_state(self.queries)}"

    @property
    def answer_bytes(self) -> int:
        """Size of all neighbours, as one partial result keeps them."""
        return len(self.queries) * self.k * (8 + np.dtype(self.dists).itemsize)


def operations(job: Job, rows: int) -> float:
    """Multiplications and additions to score all queries with so many rows (for hamming, bits compared)."""
    components = job.database.shape[1] * (32 if job.metric is Metric.HAMMING else 1)
    return 2.0 * rows * len(job.queries) * components


def shard_rows(job: Job, workers: int, block: int) -> int:
    """Rows of a shard where nobody says: SHARD_OPERATIONS each, and at least one for every worker."""
    by_work = int(SHARD_OPERATIONS / operations(job, 1) * len(job.queries) / block)
    by_workers = -(-len(job.database) // workers)
    return max(1, min(by_work, by_workers))


def queries_at_once(job: Job, memory: int, workers: int, device: Device) -> int:
    """The largest block of queries for which all processes together stay within `memory` bytes.

    Each block is one pass over the database.  Raises InputError where not even one query fits, or this process could
    not check the rows.
    """
    d = job.database.shape[1]
    fixed = worker_bytes(job, 0, device)
    each = worker_bytes(job, 1, device) - fixed
    room = (memory - PROCESS_BYTES) // workers - fixed
    need = max(workers * (fixed + each) + PROCESS_BYTES, _checking_bytes(job, 1))
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
    line = f"--memory {asked:.2f} GiB: {workers} worker(s) need at least {needed:.2f} GiB"
    if held > NOTED_BYTES:
        line += f", {held / 2**30:.2f} GiB of it each to decode {larger.where}"
        return f"{line}; give more, or write that file anew with smaller pieces (gpuknn convert)"
    return line


def blocks(length: int, size: int) -> Iterator[range]:
    """range(length) in runs of `size`, the last one shorter."""
    for start in range(0, length, size):
        yield range(start, min(start + size, length))


def cut(rows: int, done: Iterable[range], length: int) -> list[range]:
    """The shards still to do: what `done` leaves of `rows` rows, in runs of at most `length`."""
    shards: list[range] = []
    start = 0
    for part in [*sorted(done, key=lambda part: part.start), range(rows, rows)]:
        gap = range(start, part.start)
        if len(gap):
            pieces = -(-len(gap) // length)
            edges = [gap.start + len(gap) * i // pieces for i in range(pieces + 1)]
            shards += [range(a, b) for a, b in pairwise(edges)]
        start = max(start, part.stop)
    return shards
