"""Bands of rows that can be decoded in order only, from the beginning of the group of rows that they are in.

However large a group is, a few bands of it are in memory.  Threads that read near one another share a stream, and each
band is decoded once; a band that lies behind every stream takes a new one.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread, current_thread
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

PASSED_BYTES = 2**27
"""Of bands that a stream had to pass: as much as several threads read side by side (an epoch's rows)."""


class Source(Protocol):
    """A group's rows, which come in order."""

    def fill(self, out: np.ndarray) -> None:
        """Fill `out` with the next rows."""

    def close(self) -> None:
        """Free what is open; nothing follows."""


@dataclass(eq=False)
class _Stream:
    """How far a group has been decoded."""

    group: range
    source: Source
    at: int
    """The next row."""
    busy: bool = False


class Streams:
    """The streams of one file, at most one for each thread that reads; any number of threads may ask."""

    def __init__(self) -> None:
        self._moved = Condition()
        self._streams: list[_Stream] = []
        self._passed: OrderedDict[range, np.ndarray] = OrderedDict()
        self._wanted: Counter[range] = Counter()
        self._used: WeakKeyDictionary[Thread, _Stream | None] = WeakKeyDictionary()
        """The stream that each thread used last; a thread that has ended is forgotten."""

    def read(self, group: range, band: range, size: int, out: np.ndarray, begin: Callable[[], Source]) -> None:
        """Fill `out` with the rows of a band of `group`, of which every band but the last has `size` rows.

        `begin` opens the group at its first row.
        """
        stream = self._take(group, band, out, begin)
        if stream is None:
            return
        try:
            while stream.at < band.start:
                part = range(stream.at, min(stream.at + size, group.stop))
                rows = np.empty((len(part), out.shape[1]), out.dtype)
                stream.source.fill(rows)
                self._pass(stream, part, rows)
            stream.source.fill(out)
        except BaseException:
            self._end(stream)
            raise
        with self._moved:
            stream.at, stream.busy = band.stop, False
            self._moved.notify_all()

    def _take(self, group: range, band: range, out: np.ndarray, begin: Callable[[], Source]) -> _Stream | None:
        """The stream that comes to the band next, for this thread alone; None if the band was passed and is in `out`.

        Waits if another thread is at work on that stream.
        """
        with self._moved:
            self._used.setdefault(current_thread(), None)
            self._wanted[band] += 1
            try:
                while True:
                    if band in self._passed:
                        out[...] = self._passed.pop(band)
                        return None
                    before = (s for s in self._streams if s.group == group and s.at <= band.start)
                    stream = max(before, key=lambda s: s.at, default=None)
                    if stream is None or not stream.busy:
                        return self._use(stream or _Stream(group, begin(), group.start))
                    self._used[current_thread()] = stream
                    self._moved.wait()
            finally:
                self._wanted[band] -= 1
                if not self._wanted[band]:
                    del self._wanted[band]

    def _use(self, stream: _Stream) -> _Stream:
        stream.busy = True
        self._used[current_thread()] = stream
        if stream not in self._streams:
            self._streams.append(stream)
        used = set(map(id, self._used.values()))
        for other in [s for s in self._streams if not s.busy and id(s) not in used]:
            self._streams.remove(other)
            other.source.close()
        return stream

    def _pass(self, stream: _Stream, part: range, rows: np.ndarray) -> None:
        """Keep a band for the thread that waits for it or, if several threads read, for one that is late."""
        with self._moved:
            stream.at = part.stop
            if part in self._wanted or len(self._used) > 1:
                self._passed[part] = rows
                most = PASSED_BYTES // rows.nbytes
                late = [band for band in self._passed if band not in self._wanted]
                for band in late[: max(0, len(late) - most)]:
                    del self._passed[band]
            self._moved.notify_all()

    def _end(self, stream: _Stream) -> None:
        with self._moved:
            self._streams.remove(stream)
            for thread in [thread for thread, used in self._used.items() if used is stream]:
                self._used[thread] = None
            self._moved.notify_all()
        stream.source.close()
