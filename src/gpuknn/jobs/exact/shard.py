"""The one task that workers run: the exact neighbours among a shard's rows, brought to disk."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuknn.engine.device import Device, Search
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.engine.scan import scanning
from gpuknn.errors import RunError
from gpuknn.jobs.events import count, tell
from gpuknn.jobs.exact.job import Job, SelfJoin
from gpuknn.jobs.exact.partial import remove_partial, write_partial
from gpuknn.workers.here import AT_WORK, device_here
from gpuknn.workers.stop import is_to_stop

SECONDS_BETWEEN_REPORTS = 0.25
SECONDS_BETWEEN_SAVES = 15.0
"""Of a shard's state: with the epoch under way, what a kill can cost."""
SAVING_SHARE = 0.05
"""Of a shard's time, what saving its state may take: self-joins have gigabytes of it."""


@dataclass(frozen=True)
class ShardDone:
    """What comes back of a shard; its neighbours are in the run's record."""

    queries: range
    rows: range
    """Those that were searched: fewer than the shard has, perhaps none, if it was stopped."""
    farthest: np.ndarray
    """(nq,) float64: the k-th distance of every query, inf where the shard has fewer rows that can matter."""


def scan_shard(
    job: Job, state: str, queries: range, rows: range, floor: np.ndarray, folder: Path, device: Device
) -> ShardDone:
    """Find the neighbours of `queries` among `rows` and write the partial result to the record's `folder`.

    If the task is asked to stop, it writes that of the rows that it has searched.  If it takes long, it writes that now
    and then, in case its process is killed.

    `state` of the job's files as they were checked; `floor` (nq,) float64: distances that the k-th neighbours are known
    not to exceed.  Raises RunError where the files have changed: nothing is kept of what was found in them.
    """
    with AT_WORK:
        return _scan_shard(job, state, queries, rows, floor, folder, device)


def _scan_shard(
    job: Job, state: str, queries: range, rows: range, floor: np.ndarray, folder: Path, device: Device
) -> ShardDone:
    if is_to_stop():
        return ShardDone(queries, rows[:0], floor)
    device = device_here(device)
    report = Report(job, queries, rows, folder, device.name)
    report.begun()
    search = Search(
        job.queries[queries.start : queries.stop],
        job.searched_k,
        job.metric,
        np.dtype(job.dists),
        floor,
        first_id=None if job.self_join is SelfJoin.NO else queries.start,
    )
    kept = Kept(job, state, queries, rows, folder, device.name)
    with scanning(job.database, rows, search, device) as (scan, epochs):

        def keep(done: int) -> tuple[Neighbors, Certificate]:
            found, certificate = scan.result()
            report.scanned()
            kept.keep(done, found, certificate)
            report.written()
            return found, certificate

        for done in epochs:
            report.at(done)
            if done == len(rows) or is_to_stop():
                found, certificate = keep(done)
                break
            if kept.is_old():
                keep(done)
    report.finished(certificate.pairs_refined)
    return ShardDone(queries, rows[:done], found.dists[:, -1].astype(np.float64))


class Kept:
    """What is on disk of a shard: the partial result of the rows that were searched so far."""

    def __init__(self, job: Job, state: str, queries: range, rows: range, folder: Path, device: str) -> None:
        self._job, self._state, self._folder, self._device = job, state, folder, device
        self._queries, self._rows = queries, rows
        self._kept = rows[:0]
        self._since, self._cost = time.monotonic(), 0.0

    def is_old(self) -> bool:
        """Whether it is time to write it anew."""
        seconds = time.monotonic() - self._since
        return seconds > SECONDS_BETWEEN_SAVES and self._cost < SAVING_SHARE * seconds

    def keep(self, done: int, found: Neighbors, certificate: Certificate) -> None:
        """Write what was found among the first `done` rows, and remove what was written before.

        Raises RunError if the job's files have changed.
        """
        began = time.monotonic()
        if self._job.file_state() != self._state:
            raise RunError(changed(self._job))
        before, self._kept = self._kept, self._rows[:done]
        write_partial(self._folder, self._queries, self._kept, found, certificate, self._device)
        if before:
            remove_partial(self._folder, self._queries, before)
        self._since = time.monotonic()
        self._cost = self._since - began


def changed(job: Job) -> str:
    """What is said where the files are no longer those that the run began with."""
    return f"{job.database.where} or {job.queries.where} was changed while it was searched"


class Report:
    """What is told and counted of one shard."""

    def __init__(self, job: Job, queries: range, rows: range, folder: Path, device: str) -> None:
        self._run = folder
        self._shard = {"queries": queries.start, "shard": rows.start, "device": device}
        self._length = len(rows)
        self._row_bytes = job.database.nbytes // len(job.database)
        self._row_operations = job.operations(1) * len(queries) / len(job.queries)
        self._rows = 0
        self._began = self._counted = time.monotonic()
        self._told = float("-inf")

    def begun(self) -> None:
        """The worker is at it."""
        self._tell("progress")

    def at(self, rows: int) -> None:
        """So many rows are done."""
        self._count("scan", **self._work(rows - self._rows))
        self._rows = rows
        if rows < self._length and self._counted - self._told > SECONDS_BETWEEN_REPORTS:
            self._told = self._counted
            self._tell("progress")

    def scanned(self) -> None:
        """What was found among them has come from the device."""
        self._count("scan")

    def written(self) -> None:
        """It is in the record."""
        self._count("write")

    def finished(self, pairs: int) -> None:
        """The shard is done, or as much of it as is wanted."""
        self._count("write", pairs=pairs, shards=1)
        self._tell("shard", pairs=pairs)

    def _tell(self, event: str, **facts: int) -> None:
        work = self._work(self._rows)
        tell(self._run, event, **self._shard, **work, seconds=self._counted - self._began, **facts)

    def _work(self, rows: int) -> dict[str, float]:
        return {"rows": rows, "bytes": rows * self._row_bytes, "operations": rows * self._row_operations}

    def _count(self, phase: str, **amounts: float) -> None:
        now = time.monotonic()
        count(phase, now - self._counted, **amounts)
        self._counted = now
