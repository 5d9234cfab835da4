"""What is done to a run."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faults.places import Remote, hears, send
from tests.faults.question import SHARD
from tests.faults.run import Run, kill_all
from tests.faults.watch import rows_of

KILLED = -signal.SIGKILL
NOBODY = r"no Dask scheduler answers|are there and none of them fits"
"""Said where the cluster dies before the work begins."""


def _nothing(_: Run) -> None:
    """There is nothing to set right."""


@dataclass(frozen=True)
class Fault:
    """What is done, what is set right before the command is typed again, and what the client may say of it."""

    strike: Callable[[Run], None]
    mend: Callable[[Run], None] = _nothing
    exits: tuple[int, ...] = ()
    """Exit codes that it allows, beside 0 and 3."""
    says: str | None = None
    """What must be said for exit 2, a pattern; without it 2 is wrong."""
    needs_processes: bool = False
    """It strikes a worker that is not a thread of the client."""
    remote_only: bool = False
    needs_mount: bool = False
    early: bool = False
    """While the attempt starts: what is done takes as long to start itself."""


# --- processes


def kill_worker(run: Run) -> None:
    """One, of those there are."""
    if workers := run.place.worker_processes(run.now.process.pid):
        send(run.chance.choice(workers), signal.SIGKILL)


def kill_nanny(run: Run) -> None:
    assert isinstance(run.place, Remote)
    send(run.chance.choice(run.place.nannies), signal.SIGKILL)


def kill_scheduler(run: Run) -> None:
    assert isinstance(run.place, Remote)
    assert run.place.scheduler
    send(run.place.scheduler, signal.SIGKILL)


def kill_client(run: Run) -> None:
    send(run.now.process, signal.SIGKILL)
    run.now.process.wait()


def kill_everything(run: Run) -> None:
    workers = run.place.worker_processes(run.now.process.pid)
    kill_client(run)
    run.place.close()
    kill_all(workers)


def interrupt(run: Run) -> None:
    """Ctrl-C, or what a batch system sends, once Python has begun with what is gpuknn's."""
    while not run.now.ended and not hears(run.now.process.pid, signal.SIGTERM):
        time.sleep(0.01)
    send(run.now.process, run.chance.choice([signal.SIGINT, signal.SIGTERM]))


def stop_worker(run: Run) -> None:
    """For a time."""
    workers = run.place.worker_processes(run.now.process.pid)
    if not workers:
        return
    stopped = run.chance.choice(workers)
    send(stopped, signal.SIGSTOP)
    time.sleep(run.pause)
    send(stopped, signal.SIGCONT)


def stop_client(run: Run) -> None:
    """For a time, in which a second client tries."""
    send(run.now.process, signal.SIGSTOP)
    try:
        began = time.monotonic()
        second_client(run)
        while not run.others[-1].ended and time.monotonic() - began < 60:
            time.sleep(0.02)
        time.sleep(max(0.0, run.pause - (time.monotonic() - began)))
    finally:
        send(run.now.process, signal.SIGCONT)


def second_client(run: Run) -> None:
    run.others.append(run.start())


# --- the disk


def fill_disk(run: Run) -> None:
    """All but some KB."""
    left = run.chance.randrange(0, 250 * 1024)
    with open(run.output.with_name("filler"), "wb", buffering=0) as file, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(run.output.parent).free) > left:
            file.write(bytes(min(2**16, free - left)))


def make_room(run: Run) -> None:
    run.output.with_name("filler").unlink(missing_ok=True)


def mount(run: Run) -> None:
    """A small disk for the output and the run directory."""
    size = ["-o", "size=12m"]
    subprocess.run(["mount", "-t", "tmpfs", *size, "gpuknn-faults", run.output.parent], check=True, capture_output=True)


def unmount(run: Run) -> None:
    subprocess.run(["umount", "-l", run.output.parent], check=True, capture_output=True)


def limit_files(run: Run) -> None:
    """What a quota does: no file may grow beyond a size, in the client and one worker or all."""
    workers = run.place.worker_processes(run.now.process.pid)
    chosen = run.chance.sample(workers, run.chance.randint(min(1, len(workers)), len(workers)))
    _limit([run.now.process.pid, *(worker.pid for worker in chosen)], run.chance.randrange(2**15, 2**17))


def lift_limits(run: Run) -> None:
    _limit([worker.pid for worker in run.place.worker_processes(run.now.process.pid)], resource.RLIM_INFINITY)


def _limit(pids: list[int], size: int) -> None:
    for pid in pids:
        try:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        except ProcessLookupError:
            continue


# --- files of the run


def damage_partial(run: Run) -> None:
    _damage(run, "*/*-*.bin")


def damage_receipt(run: Run) -> None:
    _damage(run, "*/*-*.json")


def damage_manifest(run: Run) -> None:
    """One of the two, or both: then all that is done has to be done again."""
    if run.chance.random() < 0.5:
        kill_client(run)
    both = run.chance.random() < 0.3
    if both:
        run.damaged += run.watched.shards
    for path in sorted(run.run_dir.glob("manifest*.json"))[:: 1 if both else run.chance.choice([1, -1])]:
        _harm(run, path)
        if not both:
            return


def damage_lock(run: Run) -> None:
    _damage(run, "gpuknn.lock")


def _damage(run: Run, pattern: str) -> None:
    """Flip a bit of a file, cut its end off, or delete it; while the client works, or after it was killed."""
    if run.chance.random() < 0.5:
        kill_client(run)
    files = sorted(run.run_dir.glob(pattern))
    if not files:
        return
    path = run.chance.choice(files)
    if rows := rows_of(path.with_suffix(".json").name):
        run.damaged += len(rows) // SHARD
    _harm(run, path)


def _harm(run: Run, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # it was merged or removed just now
        run.chance.choice([_flip, _truncate, _delete])(run, path)


def _flip(run: Run, path: Path) -> None:
    with open(path, "r+b") as file:
        content = file.read()
        if content:
            place = run.chance.randrange(len(content))
            file.seek(place)
            file.write(bytes([content[place] ^ (1 << run.chance.randrange(8))]))


def _truncate(run: Run, path: Path) -> None:
    os.truncate(path, int(run.chance.random() * path.stat().st_size))


def _delete(run: Run, path: Path) -> None:
    path.unlink()


# --- the database


def fail_reads(run: Run) -> None:
    """Some of them, in every process, until the attempt ends or for a while."""
    run.failing_reads.write_text(str(run.chance.choice([0.01, 0.1, 1.0])))
    if run.chance.random() < 0.5:
        time.sleep(run.chance.uniform(0, 1))
        run.failing_reads.unlink()


def let_reads_succeed(run: Run) -> None:
    run.failing_reads.unlink(missing_ok=True)


def truncate_database(run: Run) -> None:
    """It ends somewhere in its rows."""
    os.truncate(run.database, int(run.chance.uniform(0.1, 0.99) * run.database.stat().st_size))


def change_database(run: Run) -> None:
    """Some rows become queries: nearest neighbours, whose like must not be found in the answer."""
    strangers = np.load(run.question.queries)[:50].astype(np.float16).tobytes()
    place = int(run.chance.uniform(0.05, 0.9) * run.database.stat().st_size) // 128 * 128
    with open(run.database, "r+b") as file:
        file.seek(place)
        file.write(strangers)


def restore_database(run: Run) -> None:
    """From a backup that keeps times, as cp -p does."""
    shutil.copy2(run.question.database, run.database)


CHANGED = r"truncated|changed|bytes are promised|smaller|cannot be read"
FULL = r"are free, .* are needed|cannot be written|cannot be made"
DONE = r"exists already"
"""Said where a second client did it, or the attempt before was killed when all was done."""
REFUSED = r"another gpuknn"
TAKEN_OVER = r"was (taken over|removed).* meanwhile"
"""Said where a client finds its lock to be another's: only if the lock was damaged."""
FAULTS = {
    "kill worker": Fault(kill_worker, says=NOBODY, needs_processes=True),
    "kill nanny": Fault(kill_nanny, says=NOBODY, remote_only=True),
    "kill scheduler": Fault(kill_scheduler, says=NOBODY, remote_only=True),
    "kill client": Fault(kill_client, exits=(KILLED,)),
    "kill everything": Fault(kill_everything, exits=(KILLED,)),
    "interrupt": Fault(interrupt, exits=(130,)),
    "stop worker": Fault(stop_worker, says=NOBODY, needs_processes=True),
    "stop client": Fault(stop_client, says=DONE),
    "second client": Fault(second_client, says=DONE, early=True),
    "fill disk": Fault(fill_disk, make_room, says=FULL, needs_mount=True),
    "limit files": Fault(limit_files, lift_limits, says=FULL),
    "damage partial": Fault(damage_partial, exits=(KILLED,)),
    "damage receipt": Fault(damage_receipt, exits=(KILLED,)),
    "damage manifest": Fault(damage_manifest, exits=(KILLED,)),
    "damage lock": Fault(damage_lock, exits=(KILLED,)),
    "fail reads": Fault(fail_reads, let_reads_succeed),
    "truncate database": Fault(truncate_database, restore_database, says=CHANGED),
    "change database": Fault(change_database, restore_database, says=CHANGED),
}


def can_mount(folder: Path) -> bool:
    """Whether a small disk can be had here."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "gpuknn-faults", folder], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", "-l", folder], check=True)
    return done.returncode == 0
