"""Clusters that work for a job: a scheduler that is there, or one started over SSH or SLURM, which ends with it."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from distributed import Client, SpecCluster, SSHCluster

from gpuknn.errors import InputError, pip_install
from gpuknn.workers.cluster import FAILURES, HUSHED, connect, hushed, workers_of
from gpuknn.workers.cluster_file import Running, Slurm, Ssh
from gpuknn.workers.workers import Workers

PAGES = "127.0.0.1:8787"
"""Of a scheduler, for `ssh -L`: Dask's pages have no password."""
NO_PAGES = "127.0.0.1:0"


@contextmanager
def joined(source: Running, wanted: str, cores: int, said: Callable[[str], None]) -> Iterator[tuple[Client, Workers]]:
    """A client of a scheduler that is there already, and what its workers compute on; as `launched`."""
    described = source.name != source.where  # by a file: the scheduler, too, may be on its way
    with connect(source.where, max(10, source.wait) if described else 10) as client:
        yield client, workers_of(client, cores, wanted, source, said)


@contextmanager
def launched(
    source: Ssh | Slurm, wanted: str, cores: int, said: Callable[[str], None]
) -> Iterator[tuple[Client, Workers]]:
    """A client of a cluster that was started, and what its workers compute on; leaving the context ends the cluster.

    `wanted` is auto, cpu or cuda; `cores` are those of this machine.  Raises InputError if the cluster does not start
    or has no workers that fit.
    """
    with _started(source) as address:
        said(f"{source.name}: started; waiting for {source.workers} workers")
        with connect(address, max(10, source.wait)) as client:
            workers = workers_of(client, cores, wanted, source, said)
            yield client, replace(workers, memory=source.planned_memory)


@contextmanager
def _started(source: Ssh | Slurm) -> Iterator[str]:
    """The address of a scheduler whose workers have been asked for; leaving the context ends them all."""
    with hushed(), _last_words() as heard:
        try:
            cluster = _start_ssh(source) if isinstance(source, Ssh) else _start_slurm(source)
        except InputError:
            raise
        except Exception as error:  # of SSH, of the other machine's shell, of SLURM
            reason = str(error).split("stderr:")[-1].strip() or type(error).__name__
            last = f"; the last that was heard: {heard[-1]}" if heard else ""
            raise InputError(f"{source.name}: the cluster did not start ({reason}){last}") from error
        try:
            yield cluster.scheduler_address
        finally:
            with suppress(
                Exception
            ):  # of machines that are gone; what is left of the others ends without its scheduler
                cluster.close(timeout=30)


def _start_ssh(source: Ssh) -> SpecCluster:
    if not find_spec("asyncssh"):
        raise InputError(f"{source.name}: SSH needs asyncssh; install it with: {pip_install('ssh')}")
    listening = {"interface": source.interface} if source.interface else {}
    worker = {**listening, "memory_limit": 0, "dashboard_address": NO_PAGES}
    if source.gpus:  # dask-cuda's worker starts one for each GPU; it takes resources as its command line does
        worker |= {"nthreads": 1, "resources": "GPU=1"}
    elif source.cores:
        worker |= {"nthreads": source.cores}
    return SSHCluster(
        list(source.hosts),
        connect_options={"connect_timeout": 30, **source.connect},
        scheduler_options=listening
        | {"port": 0, "dashboard_address": PAGES, "allowed_failures": FAILURES, "preload": ["gpuknn.workers.leash"]},
        worker_options=worker,
        worker_class="dask_cuda.CUDAWorker" if source.gpus else "distributed.Nanny",
        remote_python=source.python or sys.executable,
        silence_logs=HUSHED,
    )


def _start_slurm(source: Slurm) -> Any:
    if not shutil.which("sbatch"):
        raise InputError(f"{source.name}: there is no sbatch here; run this on a node from which jobs are queued")
    cluster = slurm_cluster(source)
    for _ in range(source.jobs):
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(cluster._correct_state)  # what `scale` leaves to the event loop, which would only log errors
    except BaseException:
        with suppress(Exception):  # it has no jobs to end, and stumbles over that
            cluster.close()
        raise
    return cluster


def slurm_cluster(source: Slurm) -> Any:
    """The jobs (`job_script()`), not yet queued."""
    if not find_spec("dask_jobqueue"):
        raise InputError(f"{source.name}: SLURM needs dask-jobqueue; install it with: {pip_install('slurm')}")
    from dask_jobqueue import SLURMCluster

    directives = list(source.directives)
    if source.gpus:
        directives.append(f"--gres={source.gres or f'gpu:{source.gpus}'}")
    return SLURMCluster(
        job_name="gpuknn",
        # A job is cut into so many workers with the cores shared out as threads: one for each GPU, else all for one.
        cores=source.gpus or source.cores,
        processes=source.gpus or 1,
        job_cpu=source.cores,
        memory=source.memory,
        worker_command="dask_cuda.cli" if source.gpus else "distributed.cli.dask_worker",
        worker_extra_args=[
            *("--memory-limit", "0", "--dashboard-address", NO_PAGES),
            *(("--resources", "GPU=1") if source.gpus else ()),
        ],
        job_extra_directives=directives,
        job_script_prologue=list(source.prologue),
        python=source.python or sys.executable,
        queue=source.queue or None,
        account=source.account or None,
        walltime=source.walltime,
        interface=source.interface or None,
        log_directory=source.logs or None,
        scheduler_options={"dashboard_address": PAGES, "allowed_failures": FAILURES},
        silence_logs=HUSHED,
    )


@contextmanager
def _last_words() -> Iterator[list[str]]:
    """What the other machines print while a cluster starts: SSHCluster's errors do not repeat it."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("distributed.deploy.ssh")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)  # `connect` hushes Dask
    logger.propagate = False
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
