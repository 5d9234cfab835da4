"""Where workers come from."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import dask
from distributed import Client, LocalCluster

from gpuknn.errors import RunError
from gpuknn.jobs.workers import Workers

SETTINGS = {
    # Rows are read into buffers of fixed size; Dask's own limits would pause or kill a worker for reading a file.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # A shard may fail with its worker this often before the run gives up; at most two are assigned to a worker.
    "distributed.scheduler.allowed-failures": 5,
    "distributed.comm.timeouts.connect": "30s",
}


@contextmanager
def local_cluster(workers: Workers) -> Iterator[Client]:
    """An embedded cluster on this machine, one task each at a time; gone when left.

    Workers die with the process that started them.  Nothing listens beyond loopback.  A worker's GPU is the first that
    it sees where dask-cuda has arranged that, else the one of the worker's number (`shard.gpu_number`).
    """
    with dask.config.set(SETTINGS):
        try:
            cluster = _start(workers)
        except (OSError, RuntimeError, TimeoutError) as error:
            raise RunError(f"the embedded cluster did not start ({error}); run the same command again") from error
        try:
            with Client(cluster, set_as_default=False) as client:
                yield client
        finally:
            cluster.close(timeout=5)


def _start(workers: Workers) -> LocalCluster:
    options: dict[str, Any] = {
        "n_workers": workers.count,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": None,
        "memory_limit": 0,
        "preload": ["gpuknn.jobs.shard"],
        "silence_logs": logging.CRITICAL,
        "resources": workers.need,
    }
    if workers.need and _nvml_works():
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster(device_memory_limit=None, **options)
    return LocalCluster(processes=True, **options)


def _nvml_works() -> bool:
    """Whether dask-cuda, which needs NVML, can be used: some containers have GPUs without it."""
    if not find_spec("dask_cuda") or not find_spec("pynvml"):
        return False
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True
