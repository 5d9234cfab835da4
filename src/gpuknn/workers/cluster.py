"""Dask's clients: of a scheduler that is there, and of a cluster that this process starts on its own machine."""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.comm.addressing import parse_host_port

from gpuknn.engine.choose import open_device
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.errors import InputError, RunError, in_python, option, same_again
from gpuknn.interrupts import interrupts_put_off
from gpuknn.shared import Shared
from gpuknn.workers.cluster_file import Running, Slurm, Ssh
from gpuknn.workers.workers import Workers

HERE = "127.0.0.1"
HUSHED = logging.CRITICAL + 1
"""Above all that Dask logs.  Its critical records carry tracebacks: the scheduler writes one for news that it cannot
tell a client any more, as happens if a run fails and its cluster closes while workers tell of progress."""
FAILURES = 5
"""A shard may fail with its worker this often before the run gives up; a scheduler that was there already has a setting
of its own."""
NOBODY_LENT = "start some; those of a LocalCluster end if a notebook is interrupted, and client.restart() starts others"
LENT_WAIT = 60
"""Seconds to wait for the first worker of a client that has none."""
LENT_SHARE = 0.5
"""Of a worker's memory limit, what a job may plan with: Dask stops giving work to a worker that takes 80 %."""


# A floor of a million queries is worth its 8 MB in a task; Dask would warn.
large_tasks = Shared(lambda: dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}))


@contextmanager
def connect(where: str, patience: float = 10) -> Iterator[Client]:
    """A running scheduler, which goes on when this is left; `patience`: seconds for it to answer.

    Raises InputError if there is none.
    """
    address = _address_in(Path(where)) if where.endswith(".json") else where
    try:
        parse_host_port(address.partition("://")[2])
    except ValueError as error:
        raise InputError(
            f"{option('cluster', where)}: {address} is no scheduler's address, as tcp://HOST:PORT"
        ) from error
    with hushed():
        try:
            client = Client(address, set_as_default=False, timeout=patience)
        except (OSError, ValueError) as error:
            raise InputError(f"{option('cluster', where)}: no Dask scheduler answers there ({error})") from error
        with client:
            yield client


@contextmanager
def _hush() -> Iterator[None]:
    """Keep back what Dask logs of a scheduler that is lost: it is for Dask's developers, and `feed.py` says it."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]  # two levels of their own
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(HUSHED)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


hushed = Shared(_hush)


def _address_in(scheduler_file: Path) -> str:
    """The address that a scheduler has written to its file: Dask would wait for one without end."""
    where = option("cluster", scheduler_file)
    try:
        found = json.loads(scheduler_file.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{where}: there is no such file; start a scheduler with --scheduler-file {scheduler_file}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: is no scheduler's file ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("address"), str):
        raise InputError(f"{where}: is no scheduler's file; it names no address")
    return str(found["address"])


def workers_of_client(client: Client, cores: int, device: str, said: Callable[[str], None]) -> tuple[str, Workers]:
    """The scheduler's address, and what its workers compute on; the client is the caller's, and goes on.

    Raises InputError as `workers_of` does, and if the client is closed or asynchronous.
    """
    what = option("client")
    if not isinstance(client, Client):
        kind = type(client).__name__
        raise InputError(
            f"{what}: is a {kind}, not a distributed.Client; distributed.Client(ADDRESS or CLUSTER) makes one"
        )
    if client.status != "running" or client.asynchronous:
        state = "asynchronous" if client.status == "running" else client.status
        raise InputError(
            f"{what}: is {state}; make one as distributed.Client(ADDRESS or CLUSTER), outside of coroutines"
        )
    address = client.scheduler_info(n_workers=0)["address"]
    source = Running(address, address, wait=LENT_WAIT, given_as="client", hint=NOBODY_LENT)
    return address, workers_of(client, cores, device, source, said)


def workers_of(
    client: Client, cores: int, device: str, source: Running | Ssh | Slurm, said: Callable[[str], None]
) -> Workers:
    """What the workers of a scheduler compute on, once as many as the source says are there, or after its wait.

    `cores` are those of this machine.  auto takes the workers that have a GPU (resource GPU=1) if there are any.
    Raises InputError if no worker fits, or the Python, Dask or gpuknn of scheduler and workers are not this process's.
    """
    fitting = _wait_for(client, device, source, said)
    _check_versions(client, source)
    limits = [worker["memory_limit"] for worker in fitting.values() if worker["memory_limit"]]
    memory = int(LENT_SHARE * min(limits)) if limits else None
    if all(worker["resources"].get("GPU") for worker in fitting.values()) and device != "cpu":
        found = client.run(open_device, "cuda", workers=list(fitting)).values()
        return Workers(len(fitting), cores, min(found, key=lambda gpu: gpu.most_queries(1, 1)), memory)
    threads = min(worker["nthreads"] for worker in fitting.values())
    return Workers(len(fitting), cores, CpuDevice(threads), memory)


def _wait_for(
    client: Client, device: str, source: Running | Ssh | Slurm, said: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """The workers that fit, by their addresses; at least one."""
    deadline = time.monotonic() + source.wait
    asked = None
    try:
        while True:
            every = client.scheduler_info(n_workers=-1)["workers"]
            with_gpu = {address: worker for address, worker in every.items() if worker["resources"].get("GPU")}
            fitting = with_gpu if device == "cuda" or (device == "auto" and with_gpu) else every
            if len(fitting) >= source.workers:
                return fitting
            if time.monotonic() > deadline:
                if not fitting:
                    raise InputError(_nobody(source, len(every), device))
                said(
                    f"{source.name}: {len(fitting)} of {source.workers} workers are there; "
                    "others are given work when they come"
                )
                return fitting
            if not every and asked is None:
                said(f"{source.name}: waiting for workers, for {source.wait:g} s at the most")
                # An adaptive cluster starts workers for tasks that wait.
                asked = client.submit(version, "gpuknn", pure=False)
            time.sleep(0.2)
    finally:
        if asked is not None:
            asked.cancel()


def _nobody(source: Running | Ssh | Slurm, there: int, device: str) -> str:
    worker = "cuda worker ADDRESS --resources GPU=1" if device == "cuda" else "worker ADDRESS --nthreads CORES"
    asked = f"{source.workers} worker(s) for {option('device', device)}"
    return (
        f"{option(source.given_as, source.name)}: {asked} were waited for, {source.wait:g} s; "
        f"{there} are there and none of them fits; "
        + (source.hint or f"start some, as with: dask {worker} --memory-limit 0")
    )


def _check_versions(client: Client, source: Running | Ssh | Slurm) -> None:
    where = option(source.given_as, source.name)
    try:
        client.get_versions(check=True)
        theirs = client.run(version, "gpuknn") | {"the scheduler": client.run_on_scheduler(version, "gpuknn")}
    except OSError as error:  # a worker died while it was asked
        raise RunError(f"{where}: a worker was lost ({error}); run {same_again()} again") from error
    except Exception as error:  # what is missing over there shows in many ways
        raise InputError(f"{where}: the workers do not run what this process runs ({error})") from error
    other = {address: found for address, found in theirs.items() if found != version("gpuknn")}
    if other:
        raise InputError(f"{where}: other versions of gpuknn than {version('gpuknn')}: {other}")


@contextmanager
def local_cluster(workers: Workers) -> Iterator[Client]:
    """An embedded cluster on this machine, one task each at a time; gone when left.

    Workers die with the process that started them.  Nothing listens beyond loopback.  A worker's GPU is the first that
    it sees where dask-cuda has arranged that, else the one of the worker's number (`Device.here`).
    """
    with hushed(), large_tasks(), ExitStack() as stack:
        with interrupts_put_off(), _signals_blocked():
            try:
                cluster = _start(workers)
            except (OSError, RuntimeError, TimeoutError) as error:
                # Processes that are spawned begin with the caller's script.
                guard = in_python('; a script makes this call under `if __name__ == "__main__":`')
                raise RunError(
                    f"the embedded cluster did not start ({error}){guard}; run {same_again()} again"
                ) from error
            stack.callback(_close, cluster)
            client = Client(cluster, set_as_default=False)
            stack.callback(_close, client)
        yield client


def _close(part: LocalCluster | Client) -> None:
    """End it; if it is left half closed, the end of the process waits for the rest, of a client for ever."""
    with interrupts_put_off():
        part.close(timeout=5)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let threads and processes that begin meanwhile have SIGINT and SIGTERM blocked for good.

    Ctrl-C in a terminal and the SIGTERM of a batch system, which all processes hear, are for the client alone.  It has
    the workers save what they are at, and ends them.
    """
    resource_tracker.ensure_running()  # the first process that is spawned would, and unblock the signals as it does
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {SIGINT, SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _start(workers: Workers) -> LocalCluster:
    options: dict[str, Any] = {
        "n_workers": workers.count,
        "threads_per_worker": 1,
        # Not None: without a dashboard Dask serves its status pages all the same, to the whole network.
        "dashboard_address": f"{HERE}:0",
        "worker_dashboard_address": f"{HERE}:0",
        "memory_limit": 0,
        "silence_logs": HUSHED,
        "scheduler_kwargs": {"allowed_failures": FAILURES},
        "resources": workers.device.resources,
    }
    if workers.device.resources and _nvml_works():
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster(device_memory_limit=None, host=HERE, **options)
    return LocalCluster(processes=True, host=HERE, **options)


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
