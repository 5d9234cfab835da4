"""Where a run's workers are: a thread of the client, its own processes, or a scheduler's with nannies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

DASK = [sys.executable, "-m", "dask"]
ON_LOOPBACK = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
START_WITHIN = 60


class Embedded:
    """Two workers of the client's own: no more than cores, on the smallest machine."""

    name = "embedded"
    workers = 2
    options = ("--workers", "2")

    def ready(self) -> None:
        """Nothing to start."""

    def worker_processes(self, client: int) -> list[psutil.Process]:
        """The workers of a client."""
        return _spawned_by(client)

    def close(self) -> None:
        """Nothing to end."""


class Alone(Embedded):
    """One worker, which is a thread of the client."""

    name = "alone"
    workers = 1
    options = ("--workers", "1")


class Remote:
    """A scheduler and three workers, each with a nanny of its own, that outlive clients."""

    name = "remote"
    workers = 3

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.file = folder / "scheduler.json"
        self.options = ("--cluster", str(self.file))
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.nannies: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._environment = dict(environment)

    def ready(self) -> None:
        """Start what is not there, or not any more."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.close()
            self.scheduler = self._start("scheduler", "--port", "0")
            deadline = time.monotonic() + START_WITHIN
            while not self.file.exists():
                assert time.monotonic() < deadline, "the scheduler does not start"
                time.sleep(0.02)
        self.nannies = [nanny for nanny in self.nannies if nanny.poll() is None]
        while len(self.nannies) < self.workers:
            self.nannies.append(self._start("worker", "--nthreads", "1", "--local-directory", str(self._folder)))

    def worker_processes(self, client: int) -> list[psutil.Process]:
        """The workers, of whichever client."""
        return [worker for nanny in self.nannies for worker in _spawned_by(nanny.pid)]

    def close(self) -> None:
        """End everything."""
        workers = self.worker_processes(0)
        for process in [*self.nannies, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):  # it may have ended with its nanny
                worker.kill()
        psutil.wait_procs(workers)
        self.scheduler, self.nannies = None, []
        self.file.unlink(missing_ok=True)

    def _start(self, what: str, *options: str) -> "subprocess.Popen[bytes]":
        words = [*DASK, what, "--scheduler-file", str(self.file), *ON_LOOPBACK, *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(  # type: ignore[call-overload]
            words, cwd=self._folder, env=self._environment, start_new_session=True, **quiet
        )


Place = Embedded | Remote


def _spawned_by(pid: int) -> list[psutil.Process]:
    """Living worker processes below a client or a nanny."""
    try:
        below = psutil.Process(pid).children(recursive=True)
        return [p for p in below if "spawn_main" in " ".join(p.cmdline())]
    except psutil.NoSuchProcess:
        return []


def send(process: "psutil.Process | subprocess.Popen[bytes]", what: signal.Signals) -> bool:
    """Send a signal; whether there was somebody to hear it."""
    try:
        os.kill(process.pid, what)
    except ProcessLookupError:
        return False
    return True


def hears(pid: int, what: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: proc(5), SigCgt."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (what - 1) & 1)
    return False
