"""The workers of one job: looked for before it is planned, at work while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.engine.choose import DEVICES, usable_cores
from gpuknn.errors import InputError, check_known, option, whole_number
from gpuknn.workers.feed import Feeder, dask_feeder, thread_feeder
from gpuknn.workers.workers import LOCAL, Workers, choose_workers

if TYPE_CHECKING:
    from distributed import Client

    from gpuknn.workers.cluster_file import Running, Slurm, Ssh

THREADS = 2
"""For each core, of reading and writing: while one waits for the disk another reads."""


@dataclass(frozen=True)
class Crew:
    """Who does a job's work."""

    name: str
    """The cluster's, as whoever asked calls it."""
    workers: Workers
    """Those that are there; of a cluster that is yet to start, those that its file describes."""
    source: "Running | Ssh | Slurm | None" = None
    """Where workers come from; None: this machine, or the caller's own client."""
    connection: "Client | None" = None
    """To the scheduler; None if nothing is started yet."""
    wanted: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Of this process that do the tasks, without Dask, which takes half a second to load; 0: Dask's workers do."""

    @property
    def local(self) -> bool:
        """Whether the workers are of this machine, and share its memory."""
        return self.source is None and self.connection is None

    @property
    def yet_to_start(self) -> bool:
        """Whether a file describes workers that nobody has started."""
        from gpuknn.workers.cluster_file import Running

        return self.connection is None and self.source is not None and not isinstance(self.source, Running)

    @property
    def lent(self) -> bool:
        """Whether the client is the caller's, to be left as it was."""
        return self.source is None and self.connection is not None

    @contextmanager
    def started(self, said: Callable[[str], None]) -> Iterator["Crew"]:
        """The same with all machines started and their workers known; what was started ends when this is left.

        Raises InputError if a cluster does not start or has no workers that fit.
        """
        if self.source is None or self.connection is not None:
            yield self
            return
        from gpuknn.workers.cluster_file import Running
        from gpuknn.workers.launch import joined, launched

        source, asked = self.source, (self.wanted, self.workers.cores, said)
        with joined(source, *asked) if isinstance(source, Running) else launched(source, *asked) as (client, workers):
            yield replace(self, workers=workers, connection=client)

    @contextmanager
    def client(self, most: int) -> Iterator["Client"]:
        """Dask's client of workers at work; `most` tasks are to be had at once, so no more of them are started."""
        from gpuknn.workers.cluster import large_tasks, local_cluster

        if self.connection is not None:
            with large_tasks():
                yield self.connection
            return
        with local_cluster(replace(self.workers, count=min(self.workers.count, most))) as client:
            yield client

    @contextmanager
    def feeder(self, most: int, check: Callable[[], None]) -> Iterator[Feeder]:
        """What hands tasks to workers at work, `most` at once; `check` is called now and then."""
        if self.threads:
            with thread_feeder(min(self.threads, most), check) as feeder:
                yield feeder
        else:
            with self.client(most) as client, dask_feeder(client, self.workers.device.resources, check) as feeder:
                yield feeder


def hire(
    cluster: str | Path = LOCAL,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    client: "Client | None" = None,
    computes: bool = True,
    said: Callable[[str], None] = lambda _: None,
) -> Crew:
    """Those who are to do the work; nothing is started, but a scheduler that is there is asked for its workers.

    `cluster`: local, a scheduler's address or file (.json), or a cluster file (.yaml).  `device`: auto, cpu or cuda.
    `workers`: of this machine; None: one, or one for each GPU.  `threads`: cores of this machine that are
    shared; None: all.  `client`: the caller's own, instead of a cluster.  `computes`: False to read and write alone,
    for which threads of this process do if no `workers` are asked for.  Raises InputError if there is no such cluster
    or device, or workers do not run what this process runs.
    """
    where = str(cluster)
    check_known("device", device, DEVICES)
    if client is not None and where != LOCAL:
        raise InputError(f"{option('client')}, {option('cluster')}: give one of the two")
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None:
            whole_number(name, value)
        if value is not None and (client is not None or where != LOCAL):
            whose = "of that client" if client is not None else where
            raise InputError(f"{option(name)}: the cluster {whose} has the workers that it has; leave it out")
    cores, kind = min(threads or usable_cores(), usable_cores()), device if computes else "cpu"
    if client is not None:
        from gpuknn.workers.cluster import workers_of_client

        name, found = workers_of_client(client, cores, kind, said)
        return Crew(name, found, connection=client)
    if where == LOCAL:
        found = choose_workers(kind, workers, cores)
        if computes:  # a search has threads of its own
            return Crew(LOCAL, found, threads=int(found.count == 1 and not found.device.resources))
        return Crew(LOCAL, found, threads=THREADS * cores if workers is None else 0)
    from gpuknn.workers.cluster_file import Running, read_cluster

    source = read_cluster(where)
    if isinstance(source, Running):
        from gpuknn.workers.launch import joined

        with joined(source, kind, cores, said) as (_, found):
            # All that were to be waited for have had their time.
            return Crew(source.name, found, replace(source, workers=1, wait=0), None, kind)
    if kind == "cuda" and not source.gpus:
        raise InputError(f"{source.name}: gpus: is not set, and {option('device', 'cuda')} asks for them")
    return Crew(source.name, source.planned(kind), source, None, kind)
