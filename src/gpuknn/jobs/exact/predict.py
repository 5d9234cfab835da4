"""How long a job will take and what limits it, from the rates of its workers."""

import time
from copy import copy
from dataclasses import dataclass

import numpy as np

from gpuknn.jobs.exact.plan import Job, operations
from gpuknn.vectors import Vectors
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.workers.workers import Workers

START_SECONDS = 4.0
"""Until the first shard is scanned: Dask, workers, kernels."""
TRIED_BYTES = 2**26
"""Of the database, read to learn how fast it is read."""
RUN_BYTES = 2**22


@dataclass(frozen=True)
class Rates:
    """What one device does, of a processor one core; and the storage that all share."""

    product: float
    """Multiplications and additions a second of the filter's product."""
    reading: float
    """Bytes a second of the database's rows."""
    upload: float | None = None
    """Bytes a second to a GPU."""


@dataclass(frozen=True)
class Prediction:
    """Seconds of each thing that goes on; those of the computation overlap."""

    checking: float
    """Reading all rows once before the work begins."""
    reading: float
    product: float
    upload: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return START_SECONDS + self.checking + max(self.reading, self.product, self.upload)

    @property
    def limit(self) -> str:
        """What the computation waits for."""
        return max(("reading", "product", "upload"), key=lambda name: float(getattr(self, name)))


def predict(job: Job, workers: Workers, passes: int, rates: Rates) -> Prediction:
    """What the job will take where each worker's device has these rates; a processor's are those of one core."""
    read, each = job.database.nbytes / rates.reading, devices(workers)
    return Prediction(
        checking=read,
        reading=read * passes,
        product=operations(job, len(job.database)) / (rates.product * each),
        upload=job.database.nbytes * passes / (rates.upload * each) if rates.upload else 0.0,
    )


def devices(workers: Workers) -> int:
    """GPUs, or cores."""
    return workers.count * workers.device.units


def reading_rate(vectors: Vectors) -> float:
    """Bytes a second of reading rows, tried on runs of them that are spread over the file.

    Rows that are decoded are read from the first on, up to the end of a band: of others much would be decoded in vain.
    """
    row_bytes = vectors.nbytes // len(vectors)
    run = min(len(vectors), max(1, RUN_BYTES // row_bytes))
    if isinstance(vectors, DecodedVectors):
        tried = range(0, vectors.band(min(len(vectors), max(1, TRIED_BYTES // row_bytes)) - 1).stop)
        runs = [tried[a : a + run] for a in tried[::run]]
    else:
        firsts = np.unique(np.linspace(0, len(vectors) - run, TRIED_BYTES // RUN_BYTES).astype(np.int64)).tolist()
        runs = [range(first, first + run) for first in firsts]
    room = np.empty((run, vectors.shape[1]), vectors.dtype)
    room.fill(0)  # its pages are there before the clock starts
    tried_on = copy(vectors)  # what it decodes and keeps goes with it
    began = time.perf_counter()
    for rows in runs:
        tried_on.read(rows.start, room[: len(rows)])
    return sum(map(len, runs)) * row_bytes / (time.perf_counter() - began)
