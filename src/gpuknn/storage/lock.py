"""Who works on a run: a lock file with its owner's name and heartbeat.

On one machine the system's own lock (flock) tells at once whether the owner lives.  Between machines it cannot be
relied on (NFS may keep it to each machine), so the owner also touches the file every few seconds, and whoever finds it
untouched for long enough takes it over.  An owner that was only slow sees that at its next heartbeat and stops; until
then two clients write the same bytes to the same names, which costs time and harms nothing.
"""

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from gpuknn.errors import InputError, RunError, same_again

LOCK = "gpuknn.lock"
"""The file's name, in whichever folder."""
HEARTBEAT = 5.0
"""Seconds between an owner's signs of life."""
SILENCE = 30.0
"""Seconds without one after which an owner on another machine is taken for dead."""


@dataclass(frozen=True)
class Owner:
    """The client that holds a run."""

    host: str
    pid: int
    kernel: str
    """Differs between machines, and between starts of one machine."""
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass
class Held:
    """A lock that this process holds."""

    path: Path
    owner: Owner
    stop: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise RunError where another client has taken the lock over."""
        try:
            now = _read(self.path)
        except OSError:  # a network folder that does not answer may do so the next time
            return
        if now != self.owner:
            who = f"taken over by {now}" if now else "removed"
            raise RunError(f"{self.path.parent}: the run was {who} meanwhile; {same_again()} goes on later")

    def beat(self) -> None:
        """Show signs of life until `stop` is set or the lock is another's."""
        while not self.stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                if _read(self.path) != self.owner:
                    return
                os.utime(self.path)


@contextlib.contextmanager
def lock(path: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[Held]:
    """Hold the lock file `path`, whose folder is made; whoever ends without removing the folder leaves it released.

    Raises RunError where another client holds it, InputError where it cannot be made.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+")  # noqa: SIM115 - held as long as the context
        except OSError as error:
            raise InputError(f"{path.parent}: cannot be made or written to ({error.strerror})") from error
        with file:
            earlier = owner_of(path)
            here = _lock(file, path)
            # Another client may have finished and removed the folder between our opening the file and locking it.
            if _is_at(file, path):
                if earlier and not (here and earlier.kernel == _kernel()):
                    _wait_for_silence(path, earlier, say)
                with _beating(path, file) as held:
                    yield held
                return


def owner_of(path: Path) -> Owner | None:
    """The owner that a lock file names, alive or not; None where there is none, or the file cannot be read."""
    try:
        return _read(path)
    except OSError:
        return None


def is_held(path: Path) -> bool:
    """Whether somebody seems to be at work under a lock file."""
    owner = owner_of(path)
    if owner is None:
        return False
    with contextlib.suppress(OSError), open(path) as file:
        if owner.kernel == _kernel():
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
            except BlockingIOError:
                return True
            except OSError:  # the folder knows no locks; the heartbeat tells
                pass
        return time.time() - os.fstat(file.fileno()).st_mtime < SILENCE
    return False


def _read(path: Path) -> Owner | None:
    """The same; raises OSError where the file is there and cannot be read."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: TextIO, path: Path) -> bool:
    """Take the system's lock; False where the folder knows none.  Raises RunError where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError as error:
        raise _refused(path, owner_of(path)) from error
    except OSError:
        return False


def _wait_for_silence(path: Path, owner: Owner, say: Callable[[str], None]) -> None:
    """Return once the owner has shown no sign of life for SILENCE seconds by our own clock."""
    say(f"{path.parent}: {owner} was at work on this run; watching for {SILENCE:.0f} s whether it still is")
    seen = _last_beat(path)
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(HEARTBEAT / 10)
        if _last_beat(path) != seen or owner_of(path) != owner:
            raise _refused(path, owner)


def _last_beat(path: Path) -> int:
    """Nanoseconds of the file's last change; opened anew, so that a network folder asks its server."""
    with open(path) as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _refused(path: Path, owner: Owner | None) -> RunError:
    return RunError(
        f"{path.parent}: another gpuknn ({owner or 'just started'}) is at work on this run; wait for it, or stop it"
    )


@contextlib.contextmanager
def _beating(path: Path, file: TextIO) -> Iterator[Held]:
    held = Held(path, Owner(platform.node(), os.getpid(), _kernel(), uuid.uuid4().hex))
    file.truncate(0)
    file.write(json.dumps(asdict(held.owner)))
    file.flush()
    os.fsync(file.fileno())
    heart = threading.Thread(target=held.beat, name="gpuknn-heartbeat", daemon=True)
    heart.start()
    try:
        yield held
    finally:
        held.stop.set()
        heart.join()
        if owner_of(path) == held.owner:  # released: nobody needs to wait for our silence
            file.truncate(0)


def _kernel() -> str:
    """The running system: where flock and process numbers are known to all."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()
