"""Where workers come from."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster

from gpuknn.errors import RunError

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
def local_cluster(workers: int) -> Iterator[Client]:
    """An embedded cluster of `workers` processes on this machine, one task each at a time; gone when left.

    Workers die with the process that started them.  Nothing listens beyond loopback.
    """
    with dask.config.set(SETTINGS):
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,
                preload=["gpuknn.jobs.shard"],
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError, TimeoutError) as error:
            raise RunError(f"the embedded cluster did not start ({error}); run the same command again") from error
        try:
            with Client(cluster, set_as_default=False) as client:
                yield client
        finally:
            cluster.close(timeout=5)
