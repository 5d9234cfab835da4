"""Which shards were computed, and how often: told by the kernel, so that none is missed however short it is there."""

import contextlib
import ctypes
import os
import re
import select
import struct
import threading
from collections import Counter
from pathlib import Path

MOVED_TO, CREATED = 0x80, 0x100
"""inotify(7): IN_MOVED_TO, IN_CREATE."""
EVENT = struct.Struct("iIII")
RECEIPT = re.compile(r"\d{10}-\d{10}\.(\d{12})-(\d{12})\.json")

JOB = re.compile(r"[0-9a-f]{32}")
"""The folder of a job's partial results."""


def rows_of(name: str) -> range | None:
    """The rows that a partial's receipt speaks of; None for other files."""
    found = RECEIPT.fullmatch(name)
    return range(int(found[1]), int(found[2])) if found else None


class Watch:
    """Counts receipts as they appear in a folder that may come and go within another."""

    def __init__(self, run_dir: Path, shard: int) -> None:
        self.run_dir = run_dir
        self.shard = shard
        self.computed: Counter[int] = Counter()
        """By first row: how often a shard's receipt has appeared."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._parent = self._add(run_dir.parent)
        self._stop, self._told_to_stop = os.pipe()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def shards(self) -> int:
        """Different shards computed so far."""
        return len(self.computed)

    @property
    def twice(self) -> int:
        """Shards computed again."""
        return self.computed.total() - len(self.computed)

    def close(self) -> None:
        """Stop listening."""
        os.close(self._told_to_stop)
        self._thread.join()
        os.close(self._stop)
        os.close(self._inotify)

    def _add(self, folder: Path) -> int:
        watch: int = self._libc.inotify_add_watch(self._inotify, os.fsencode(folder), MOVED_TO | CREATED)
        return watch

    def _add_job(self, name: str) -> None:
        if JOB.fullmatch(name):
            self._add(self.run_dir / name)

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([self._inotify, self._stop], [], [])
            if self._stop in ready:
                return
            events = os.read(self._inotify, 2**16)
            while events:
                watch, mask, _, length = EVENT.unpack_from(events)
                name = os.fsdecode(events[EVENT.size : EVENT.size + length].rstrip(b"\0"))
                events = events[EVENT.size + length :]
                self._hear(watch, mask, name)

    def _hear(self, watch: int, mask: int, name: str) -> None:
        if watch == self._parent:
            if name == self.run_dir.name:
                self._add(self.run_dir)
                with contextlib.suppress(FileNotFoundError):  # what was made before we listened
                    for path in self.run_dir.iterdir():
                        self._add_job(path.name)
            return
        self._add_job(name)
        rows = rows_of(name)
        if mask & MOVED_TO and rows is not None and len(rows) == self.shard:
            self.computed[rows.start] += 1
