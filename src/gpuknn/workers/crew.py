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
def hired(
    cluster: str = LOCAL,
    device: str | None = "auto",
    workers: int | None = None,
    threads: int | None = None,
    said: Callable[[str], None] = lambda _: None,
) -> Iterator[Crew]:
    """Those who are to do the work.  A scheduler that is there is connected to; nothing is started.

    `cluster`: local, a scheduler's address or file (.json), or a cluster file (.yaml).  `device`: auto, cpu or cuda;
    None if none is needed, as to read and write.  `workers`: processes of this machine; None: one, or one for each GPU,
    or, if no device is needed, threads of this one.  `threads`: cores of this machine that are shared; None: all.
    Raises InputError if there is no such cluster or device, or workers do not run what this process runs.
    """
    for option, value in (("--workers", workers), ("--threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: must be at least 1")
        if value is not None and cluster != LOCAL:
            raise InputError(f"{option}: the cluster {cluster} has the workers that it has; leave it out")
    cores, kind = min(threads or usable_cores(), usable_cores()), device or "cpu"
    if cluster == LOCAL:
        yield Crew(LOCAL, choose_workers(kind, workers, cores), in_process=device is None and workers is None)
        return
    from gpuknn.workers.cluster_file import Running, read_cluster

    source = read_cluster(cluster)
    if not isinstance(source, Running):
        if kind == "cuda" and not source.gpus:
            raise InputError(f"{source.name}: gpus: is not set, and --device cuda asks for them")
        yield Crew(source.name, source.planned(kind), None, source, kind)
        return
    from gpuknn.workers.cluster import connect, workers_of

    described = source.name != source.where  # by a file: the scheduler, too, may be on its way
    with connect(source.where, max(10, source.wait) if described else 10) as client:
        yield Crew(source.name, workers_of(client, cores, kind, source, said), client)
