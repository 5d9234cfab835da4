"""What is to be done, and how it is cut: a job, its shards, and what they will cost."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gpuknn.exact.metric import Metric
from gpuknn.vectors import Vectors, file_identity

RESULT_VERSION = 1
"""Raised when the answer's bytes change, so that older partial results are not taken for today's."""
SHARD_OPERATIONS = 2e13
"""Multiplications and additions of one shard by default: a minute or so of a laptop, a second of a GPU."""


@dataclass(frozen=True)
class Job:
    """The question, by file."""

    database: Vectors
    queries: Vectors
    k: int
    metric: Metric
    dists: str

    def fingerprint(self) -> str:
        """32 hexadecimal digits of everything that decides the answer: equal for equal answers."""
        files = file_identity(self.database), file_identity(self.queries)
        parts = RESULT_VERSION, *files, self.k, self.metric.value, self.dists
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    @property
    def operations(self) -> float:
        """Multiplications and additions of all scores (for hamming, bits compared)."""
        return operations(self, len(self.database))

    @property
    def partial_bytes(self) -> int:
        """Size of one partial result."""
        return len(self.queries) * self.k * (8 + np.dtype(self.dists).itemsize)


def operations(job: Job, rows: int) -> float:
    """Multiplications and additions for so many rows."""
    components = job.database.shape[1] * (32 if job.metric is Metric.HAMMING else 1)
    return 2.0 * rows * len(job.queries) * components


def shard_rows(job: Job, workers: int) -> int:
    """Rows of a shard where nobody says: SHARD_OPERATIONS each, and at least one for every worker."""
    by_work = int(SHARD_OPERATIONS / operations(job, 1))
    by_workers = -(-len(job.database) // workers)
    return max(1, min(by_work, by_workers))


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
