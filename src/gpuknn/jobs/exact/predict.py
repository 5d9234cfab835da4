"""How long a job will take and what limits it, from the rates of its workers."""

from dataclasses import dataclass

from gpuknn.bench.kept import Rates
from gpuknn.jobs.exact.job import Job
from gpuknn.workers.workers import Workers

START, START_OF_PROCESSES = 0.1, 2.0
"""Seconds until the first shard is scanned, by a thread of this process or by others that start first."""


@dataclass(frozen=True)
class Prediction:
    """Seconds of each thing that goes on; those of the computation overlap."""

    start: float
    checking: float
    """Reading all rows once before the work begins."""
    reading: float
    product: float
    upload: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.start + self.checking + max(self.reading, self.product, self.upload)

    @property
    def limit(self) -> str:
        """What the computation waits for."""
        return max(("reading", "product", "upload"), key=lambda name: float(getattr(self, name)))


def predict(job: Job, workers: Workers, passes: int, rates: Rates) -> Prediction:
    """What the job will take where each worker's device has these rates; a processor's are those of one core."""
    read, each = job.database.nbytes / rates.reading, workers.units
    return Prediction(
        start=START if workers.count == 1 and not workers.device.resources else START_OF_PROCESSES,
        checking=read,
        reading=read * passes,
        product=job.operations(len(job.database)) / (rates.product * each),
        upload=job.database.nbytes * passes / (rates.upload * each) if rates.upload else 0.0,
    )
