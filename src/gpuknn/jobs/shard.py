"""The one task that workers run: the exact neighbours among a shard's rows, brought to disk."""

import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from distributed import get_worker

from gpuknn.exact.cpu import CpuDevice
from gpuknn.exact.device import Device, Search, count_gpus, open_device
from gpuknn.exact.scan import scan
from gpuknn.jobs.plan import Job, SelfJoin
from gpuknn.jobs.run_directory import write_partial

PROGRESS_TOPIC = "gpuknn-progress"
SECONDS_BETWEEN_REPORTS = 0.25


def dask_setup(worker: object) -> None:
    """Called by Dask as a worker starts: Ctrl-C in a terminal is for the client, which stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class ShardDone:
    """What comes back of a shard; its neighbours are in the run directory."""

    queries: range
    rows: range
    farthest: np.ndarray
    """(nq,) float64: the k-th distance of every query, inf where the shard has fewer rows that can matter."""


def scan_shard(job: Job, queries: range, rows: range, floor: np.ndarray, folder: Path, device: Device) -> ShardDone:
    """Find the neighbours of `queries` among `rows` and write the partial result to the run directory `folder`.

    `floor` (nq,) float64: distances that the k-th neighbours are known not to exceed.
    """
    with AT_WORK:
        return _scan_shard(job, queries, rows, floor, folder, device)


AT_WORK = threading.Lock()
"""A worker with several threads is given several shards; each uses all its cores, or its GPU, so they take turns."""


def _scan_shard(job: Job, queries: range, rows: range, floor: np.ndarray, folder: Path, device: Device) -> ShardDone:
    worker = get_worker()
    reported = 0.0

    def report(done: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if done == len(rows) or now - reported > SECONDS_BETWEEN_REPORTS:
            reported = now
            worker.log_event(PROGRESS_TOPIC, {"queries": queries.start, "shard": rows.start, "rows": done})

    if not isinstance(device, CpuDevice):
        device = open_device("cuda", number=gpu_number(worker.name))
    search = Search(
        job.queries[queries.start : queries.stop],
        job.searched_k,
        job.metric,
        np.dtype(job.dists),
        floor,
        first_id=None if job.self_join is SelfJoin.NO else queries.start,
    )
    found, certificate = scan(job.database, rows, search, device, report)
    write_partial(folder, queries, rows, found, certificate, device.name)
    return ShardDone(queries, rows, found.dists[:, -1].astype(np.float64))


def gpu_number(worker_name: object) -> int:
    """The number of a worker's GPU among those that it sees.

    The first, as CUDA_VISIBLE_DEVICES has it (dask-cuda turns that); but the workers of a plain local cluster see all
    GPUs, and are numbered.
    """
    if "dask_cuda" in sys.modules or not str(worker_name).isdecimal():
        return 0
    return int(str(worker_name)) % count_gpus()
