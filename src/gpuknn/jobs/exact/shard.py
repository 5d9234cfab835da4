"""The one task that workers run: the exact neighbours among a shard's rows, brought to disk."""

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuknn.engine.device import Device, Search
from gpuknn.engine.scan import scan
from gpuknn.errors import RunError
from gpuknn.jobs.events import count, tell, worker
from gpuknn.jobs.exact.job import Job, SelfJoin
from gpuknn.jobs.exact.partial import write_partial

SECONDS_BETWEEN_REPORTS = 0.25


@dataclass(frozen=True)
class ShardDone:
    """What comes back of a shard; its neighbours are in the run's record."""

    queries: range
    rows: range
    farthest: np.ndarray
    """(nq,) float64: the k-th distance of every query, inf where the shard has fewer rows that can matter."""


def scan_shard(
    job: Job, state: str, queries: range, rows: range, floor: np.ndarray, folder: Path, device: Device
) -> ShardDone:
    """Find the neighbours of `queries` among `rows` and write the partial result to the record's `folder`.

    `state` of the job's files as they were checked; `floor` (nq,) float64: distances that the k-th neighbours are known
    not to exceed.  Raises RunError where the files have changed: nothing is kept of what was found in them.
    """
    with AT_WORK:
        return _scan_shard(job, state, queries, rows, floor, folder, device)


AT_WORK = threading.Lock()
"""A worker with several threads is given several tasks; each uses all its cores, or its GPU, and the memory that the
plan counts, so they take turns."""


def _scan_shard(
    job: Job, state: str, queries: range, rows: range, floor: np.ndarray, folder: Path, device: Device
) -> ShardDone:
    if here := worker():
        device = device.here(here.state.nthreads, gpu_number(here.name))
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
    found, certificate = scan(job.database, rows, search, device, report.at)
    report.scanned()
    if job.file_state() != state:
        raise RunError(changed(job))
    write_partial(folder, queries, rows, found, certificate, device.name)
    report.finished(certificate.pairs_refined)
    return ShardDone(queries, rows, found.dists[:, -1].astype(np.float64))


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
        """So many rows are done.  Raises RunError if nobody waits for the shard any more."""
        if self._given_up():
            raise RunError("the shard was given up")
        self._count("scan", **self._work(rows - self._rows))
        self._rows = rows
        if rows < self._length and self._counted - self._told > SECONDS_BETWEEN_REPORTS:
            self._told = self._counted
            self._tell("progress")

    def scanned(self) -> None:
        """All rows are done, and what was kept has been sorted."""
        self._count("scan")

    def finished(self, pairs: int) -> None:
        """The shard is in the record."""
        self._count("write", pairs=pairs, shards=1)
        self._tell("shard", pairs=pairs)

    def _given_up(self) -> bool:
        """Whether the client has taken the task back, or has gone: a thread cannot be stopped from outside."""
        here = worker()
        task = here and here.state.tasks.get(here.get_current_task())
        return here is not None and (task is None or task.state != "executing")

    def _tell(self, event: str, **facts: int) -> None:
        work = self._work(self._rows)
        tell(self._run, event, **self._shard, **work, seconds=self._counted - self._began, **facts)

    def _work(self, rows: int) -> dict[str, float]:
        return {"rows": rows, "bytes": rows * self._row_bytes, "operations": rows * self._row_operations}

    def _count(self, phase: str, **amounts: float) -> None:
        now = time.monotonic()
        count(phase, now - self._counted, **amounts)
        self._counted = now


def gpu_number(worker_name: object) -> int:
    """The number of a worker's GPU among those that it sees.

    The first, as CUDA_VISIBLE_DEVICES has it (dask-cuda turns that); but the workers of a plain local cluster see all
    GPUs, and are numbered themselves.
    """
    if "dask_cuda" in sys.modules or not str(worker_name).isdecimal():
        return 0
    return int(str(worker_name))
