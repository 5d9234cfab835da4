"""The workers of one job: found or described before it is planned, at work while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpuknn.engine.choose import usable_cores
from gpuknn.errors import InputError
from gpuknn.workers.feed import Feeder, dask_feeder, thread_feeder
from gpuknn.workers.workers import LOCAL, Workers, choose_workers

if TYPE_CHECKING:
    from distributed import Client

    from gpuknn.workers.cluster_file import Slurm, Ssh

THREADS = 2
"""For each core, of reading and writing: while one waits for the disk another reads."""


@dataclass(frozen=True)
class Wanted:
    """Who is to do the work, as the command line's options say it."""

    cluster: str = LOCAL
    """`--cluster`: local, a scheduler's address or file (.json), or a cluster file (.yaml)."""
    device: str | None = "auto"
    """auto, cpu or cuda; None: what is to be done needs neither, as reading and writing."""
    count: int | None = None
    """Processes of this machine; None: one, or one for each GPU, or, if no device is needed, threads of this one."""
    threads: int | None = None
    """Cores of this machine that are shared; None: all."""


@dataclass(frozen=True)
class Crew:
    """Who does a job's work."""

    name: str
    """The cluster's, as the person at the terminal calls it."""
    workers: Workers
    """Those that are there; of a cluster that is yet to start, those that its file describes."""
    connection: "Client | None" = None
    """To the scheduler; None if the workers are yet to start."""
    yet_to_start: "Ssh | Slurm | None" = None
    wanted: str = "auto"
    """auto, cpu or cuda."""
    in_process: bool = False
    """Whether threads of this process do the work: reading and writing release the GIL."""

    @property
    def local(self) -> bool:
        """Whether the workers are processes of this machine, which share its memory."""
        return self.connection is None and self.yet_to_start is None

    @contextmanager
    def started(self, said: Callable[[str], None]) -> Iterator["Crew"]:
        """The same with all machines started and their workers known; what was started ends when this is left.

        Raises InputError if a cluster does not start or has no workers that fit.
        """
        if self.yet_to_start is None:
            yield self
            return
        from gpuknn.workers.launch import launched

        with launched(self.yet_to_start, self.wanted, self.workers.cores, said) as (client, workers):
            yield replace(self, workers=workers, connection=client, yet_to_start=None)

    @contextmanager
    def client(self, most: int) -> Iterator["Client"]:
        """Dask's client of workers at work; `most` tasks are to be had at once, so no more of them are started."""
        if self.connection is not None:
            yield self.connection
            return
        from gpuknn.workers.cluster import local_cluster

        with local_cluster(replace(self.workers, count=min(self.workers.count, most))) as client:
            yield client

    @contextmanager
    def feeder(self, most: int, check: Callable[[], None]) -> Iterator[Feeder]:
        """What hands tasks to workers at work, `most` at once; `check` is called now and then."""
        if self.in_process:
            with thread_feeder(min(THREADS * self.workers.cores, most), check) as feeder:
                yield feeder
        else:
            with self.client(most) as client:
                yield dask_feeder(client, self.workers.device.resources, check)


@contextmanager
def hired(wanted: Wanted, said: Callable[[str], None] = lambda _: None) -> Iterator[Crew]:
    """The crew that is wanted.  A scheduler that is there is connected to; nothing is started.

    Raises InputError if there is no such cluster or device, or its workers do not run what this process runs.
    """
    for option, value in (("--workers", wanted.count), ("--threads", wanted.threads)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: must be at least 1")
        if value is not None and wanted.cluster != LOCAL:
            raise InputError(f"{option}: the cluster {wanted.cluster} has the workers that it has; leave it out")
    cores = min(wanted.threads or usable_cores(), usable_cores())
    device = wanted.device or "cpu"
    if wanted.cluster == LOCAL:
        in_process = wanted.device is None and wanted.count is None
        yield Crew(LOCAL, choose_workers(device, wanted.count, cores), in_process=in_process)
        return
    from gpuknn.workers.cluster_file import Running, read_cluster

    source = read_cluster(wanted.cluster)
    if not isinstance(source, Running):
        if device == "cuda" and not source.gpus:
            raise InputError(f"{source.name}: gpus: is not set, and --device cuda asks for them")
        yield Crew(source.name, source.planned(device), None, source, device)
        return
    from gpuknn.workers.cluster import Expected, connect, workers_of

    expected = Expected(source.name, source.workers, source.wait)
    described = source.name != source.where  # by a file: the scheduler, too, may be on its way
    with connect(source.where, max(10, source.wait) if described else 10) as client:
        yield Crew(source.name, workers_of(client, cores, device, expected, said), client)
