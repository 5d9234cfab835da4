"""Where workers come from."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster

from gpuknn.errors import InputError, RunError
from gpuknn.exact.cpu import CpuDevice
from gpuknn.exact.device import open_device
from gpuknn.jobs.workers import LOCAL, Workers

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


NO_WORKERS_AFTER = 30
"""Seconds after which a cluster without a fitting worker is given up."""


@contextmanager
def cluster(where: str, workers: Workers) -> Iterator[Client]:
    """The workers of `--cluster`: local, or those of a scheduler, by its address or its file (.json)."""
    with local_cluster(workers) if where == LOCAL else connect(where) as client:
        yield client


@contextmanager
def connect(where: str) -> Iterator[Client]:
    """A running scheduler, which goes on when this is left.

    Raises InputError where there is none, or where its Python, Dask or gpuknn are not this process's.
    """
    named = {"scheduler_file": where} if where.endswith(".json") else {"address": where}
    if "scheduler_file" in named and not Path(where).is_file():  # Dask would wait for it without end
        raise InputError(f"--cluster {where}: there is no such file; start a scheduler with --scheduler-file {where}")
    with dask.config.set(SETTINGS):
        try:
            client = Client(**named, set_as_default=False, timeout=10)
        except (OSError, ValueError) as error:
            raise InputError(f"--cluster {where}: no Dask scheduler answers there ({error})") from error
        with client:
            _check_versions(client, where)
            yield client


def workers_of(where: str, cores: int, device: str) -> Workers:
    """What the workers of a running cluster compute on; `cores` are those of this machine.

    auto takes the workers that have a GPU (resource GPU=1) if there are any.  Raises InputError where no worker fits.
    """
    with connect(where) as client:
        deadline = time.monotonic() + NO_WORKERS_AFTER
        while True:
            every = client.scheduler_info()["workers"]
            with_gpu = {name: worker for name, worker in every.items() if worker["resources"].get("GPU")}
            fitting = with_gpu if device == "cuda" or (device == "auto" and with_gpu) else every
            if fitting:
                break
            if time.monotonic() > deadline:
                start = "dask worker ADDRESS --nthreads 1" + " --resources GPU=1" * (device == "cuda")
                raise InputError(
                    f"--cluster {where}: {len(every)} workers are there and none that --device {device} asks for; "
                    f"start some, as with: {start}"
                )
            time.sleep(0.2)
        if fitting is with_gpu:
            found = client.run(open_device, "cuda", workers=list(with_gpu)).values()
            return Workers(len(with_gpu), cores, min(found, key=lambda gpu: gpu.most_queries(1, 1)))
        threads = min(worker["nthreads"] for worker in every.values())
        return Workers(len(every), cores, CpuDevice(threads))


def _check_versions(client: Client, where: str) -> None:
    try:
        client.get_versions(check=True)
        theirs = client.run(version, "gpuknn")
    except Exception as error:  # what is missing over there shows in many ways
        raise InputError(f"--cluster {where}: the workers do not run what this process runs ({error})") from error
    other = {address: found for address, found in theirs.items() if found != version("gpuknn")}
    if other:
        raise InputError(f"--cluster {where}: other versions of gpuknn than {version('gpuknn')}: {other}")


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
        # Not None: without a dashboard Dask serves its status pages all the same, to the whole network.
        "dashboard_address": "127.0.0.1:0",
        "worker_dashboard_address": "127.0.0.1:0",
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
