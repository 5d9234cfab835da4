"""One run of the job: the command, typed again until it is finished, and what is found after each attempt."""

import filecmp
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import psutil

from tests.faults.places import Place, send
from tests.faults.question import SHARD, Question, answer
from tests.faults.watch import Watch

ATTEMPT_WITHIN = 180
"""Seconds in which an attempt must end, a fault's own pause not counted."""
SAID = 3_000
"""Characters of what a client said that are looked at and shown, the last ones."""
DIE_WITHIN = 60
"""Seconds in which the embedded workers of a client that is gone must be gone, too."""
READS = Path(__file__).parent / "reads"


def environment(folder: Path, slow: float) -> dict[str, str]:
    """For every process of a run: slow reads, failing ones on demand, and stacks where one hangs."""
    added = {"SLOW_READS": str(slow), "FAILING_READS": str(folder / "failing-reads"), "PYTHONFAULTHANDLER": "1"}
    path = os.pathsep.join(filter(None, [str(READS), os.environ.get("PYTHONPATH")]))
    return os.environ | added | {"PYTHONPATH": path}


@dataclass
class Attempt:
    """A client at work."""

    process: "subprocess.Popen[bytes]"
    errors: Path

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.process.poll() is not None

    @property
    def said(self) -> str:
        """Its standard error so far."""
        return self.errors.read_text(errors="replace")[-SAID:]


@dataclass
class Run:
    """A folder with the database, the run directory and the output, and what has happened there."""

    question: Question
    place: Place
    folder: Path
    chance: random.Random
    environment: dict[str, str]
    pause: float
    """Seconds for which a process is stopped."""
    attempts: list[Attempt] = field(default_factory=list)
    others: list[Attempt] = field(default_factory=list)
    """Second clients."""
    problems: list[str] = field(default_factory=list)
    damaged: int = 0
    """Shards that were done and were damaged on purpose."""

    def __post_init__(self) -> None:
        self.database = self.folder / "db.npy"
        shutil.copy2(self.question.database, self.database)
        self.output = self.folder / "out" / "gold.h5"
        self.output.parent.mkdir()
        self.run_dir = self.output.with_name("gold.h5.run")

    def watch(self) -> None:
        """Begin to count shards; once the output's folder is what it will be."""
        self.watched = Watch(self.run_dir, SHARD)

    @property
    def now(self) -> Attempt:
        """The attempt at work."""
        return self.attempts[-1]

    @property
    def failing_reads(self) -> Path:
        """Reads fail while it is there."""
        return Path(self.environment["FAILING_READS"])

    def start(self) -> Attempt:
        """Type the command."""
        errors = self.folder / f"errors-{len(self.attempts) + len(self.others)}"
        words = ["exact", self.database, self.question.queries, "-k", 50, "-o", self.output, "--shard-rows", SHARD]
        command = [sys.executable, "-m", "gpuknn", *map(str, words), *self.place.options]
        with open(errors, "wb") as file:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=file, env=self.environment, start_new_session=True
            )
        return Attempt(process, errors)

    def end(self, attempt: Attempt) -> int:
        """Wait until an attempt is over; its exit code."""
        deadline = time.monotonic() + ATTEMPT_WITHIN
        while not attempt.ended and time.monotonic() < deadline:
            time.sleep(0.02)
        if not attempt.ended:
            send(attempt.process, signal.SIGABRT)
            time.sleep(2)
            self.problems.append(f"hung for {ATTEMPT_WITHIN} s; {attempt.errors}:\n{attempt.said}")
            attempt.process.kill()
        code = attempt.process.wait()
        if "Traceback" in attempt.said:
            self.problems.append(f"a traceback (exit {code}):\n{attempt.said}")
        return code

    def check_answer(self) -> None:
        """The file that is there holds the oracle's bytes.

        Where the database was changed it may be the answer of either: before anything was computed it was simply
        another database, after everything the answer stands.
        """
        try:
            with h5py.File(self.output) as file:
                found = file["knns"][:].tobytes(), file["dists"][:].tobytes()
        except OSError as error:
            self.problems.append(f"WRONG ANSWER: cannot be read: {error}")
            return
        same = filecmp.cmp(self.database, self.question.database, shallow=False)
        if found != self.question.answer and (same or found != answer(self.database, self.question.queries)):
            self.problems.append("WRONG ANSWER")

    def check_left(self) -> None:
        """Nothing lies beside the finished file."""
        left = sorted(path.name for path in self.output.parent.iterdir() if path != self.output)
        if left:
            inside = sorted(path.name for path in self.run_dir.iterdir()) if self.run_dir.is_dir() else []
            self.problems.append(f"left behind: {left} {inside}")

    def check_processes(self) -> None:
        """Workers of a client go when it goes."""
        for attempt in [*self.attempts, *self.others]:
            if left := _outliving(attempt.process.pid):
                self.problems.append(f"processes of a client outlive it: {[p.cmdline() for p in left]}")
                kill_all(left)

    def close(self) -> None:
        """End whatever is left."""
        for attempt in [*self.attempts, *self.others]:
            kill_all(_session(attempt.process.pid))
            attempt.process.kill()
            attempt.process.wait()
        self.failing_reads.unlink(missing_ok=True)
        if hasattr(self, "watched"):
            self.watched.close()


def one_line(said: str, code: int) -> bool:
    """Whether a client's last words are as they should be: one line that tells what is wrong."""
    lines = said.splitlines()
    return code in (0, -signal.SIGKILL) or bool(lines and re.match(r"gpuknn: (error|failed|interrupted)", lines[-1]))


def kill_all(processes: list[psutil.Process]) -> None:
    """SIGKILL, and wait."""
    for process in processes:
        send(process, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=10)


def _session(leader: int) -> list[psutil.Process]:
    """Living processes of a client's session: itself and its workers."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _outliving(leader: int) -> list[psutil.Process]:
    """Processes of a client's session that do not end though it has."""
    deadline = time.monotonic() + DIE_WITHIN
    while (left := _session(leader)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
