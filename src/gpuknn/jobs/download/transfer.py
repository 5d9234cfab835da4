"""Bytes of one version of a file on their way to disk.

The file is cut into blocks.  Each connection fetches one at a time, the first that nobody has begun, so that the md5
sum can follow close behind.  If none is left, a connection takes over the second half of the largest that another is
at: a connection that crawls does not keep all waiting.  A block that a connection has failed at is gone on with where
it broke.

A server that sends no ranges sends the file as one block.  If that breaks, the transfer begins anew.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from gpuknn.errors import InputError, RunError
from gpuknn.jobs.download.digest import md5_of
from gpuknn.jobs.download.server import ENDLESS, Anew, Answer, Changed, Passing, Version, asked

CONNECTIONS = 4
BLOCK_BYTES = 64 * 2**20
HALVED_BYTES = 2**20
"""No half of a block is smaller."""
HALVED_AFTER = 0.5
"""Seconds that a connection waits for a block before it takes half of another's."""
ATTEMPTS = 6
"""So often in succession a connection may fail without getting on."""
GETTING_ON = 2**20
"""Bytes; of what is smaller, an eighth."""
PAUSE = 1.0
"""Seconds before the second attempt, at most; each further pause may be twice as long."""
LONGEST_PAUSE = 120.0
STUCK_SECONDS = 300.0
"""After so long without a byte, but for pauses, all is given up: a server may drip heads or answers to nothing."""
DOUBTS = 3
"""So often the server must say that it has another version, or no parts, before it is believed."""
SECONDS_BETWEEN_KEEPING = 1.0
SECONDS_BETWEEN_TELLING = 0.1
HASH_SECONDS = 0.02
"""How often the md5 sum looks for further bytes."""

Extents = list[tuple[int, int]]
"""Bytes [first, stop) of a file, in order, with gaps between them."""


@dataclass
class Block:
    """Bytes [start, stop), of which those before `position` are on disk."""

    start: int
    position: int
    stop: int
    busy: bool = False
    """Whether a connection is at it."""


class Transfer:
    """A file's bytes on their way to `part`, which exists.

    `begun`: the version of which `extents` are there already.  `check` is told the version before its first byte is
    written, and raises an error if it is not wanted.  `whole`: ask for the file in one piece.  `most`: how many bytes
    it may have.  `md5_unknown`: nobody will notice if parts of two versions are mixed, so their server must tell them
    apart.
    """

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        part: Path,
        check: Callable[[Version], None],
        begun: Version | None = None,
        extents: Iterable[tuple[int, int]] = (),
        whole: bool = False,
        most: int | None = None,
        md5_unknown: bool = False,
    ) -> None:
        self._client, self._url, self._check, self._whole = client, url, check, whole
        self.version = begun
        self._turn = threading.Condition()
        self._blocks = _cut(extents, begun.size) if begun and begun.size else []
        self._blocks = self._blocks or [Block(0, 0, ENDLESS if whole else BLOCK_BYTES)]
        self._sized, self._met = bool(begun and begun.size), False
        """Whether it is known how long the file is, and whether the server has answered."""
        self._most, self._md5_unknown = most, md5_unknown
        self._workers = self._pausing = self._doubts = 0
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        self._md5: str | None = None
        self._handle, self._users = os.open(part, os.O_RDWR | os.O_NOFOLLOW), 1

    def run(self, on_bytes: Callable[[int], None], keep: Callable[[Version, Extents], None]) -> str:
        """Fetch what is missing; the md5 sum of all.

        `on_bytes` is told how many bytes are there, `keep` every few seconds which are on disk, also when this fails.
        Raises Anew or Changed if all has to be fetched again, InputError or RunError if that is of no use, OSError if
        nothing can be written.
        """
        kept = moved = time.monotonic()
        before = -1
        self._start(self._hash)
        self._start(self._fetch_blocks)
        try:
            while self._md5 is None and self._failure is None:
                with self._turn:
                    self._turn.wait_for(lambda: self._md5 or self._failure, SECONDS_BETWEEN_TELLING)
                there, now = self.bytes, time.monotonic()
                on_bytes(there)
                if there != before or self._pausing or self._fetched:
                    before, moved = there, now
                if now - moved > STUCK_SECONDS:
                    raise RunError(f"{self._url}: nothing has come for {STUCK_SECONDS:.0f} s")
                if now - kept > SECONDS_BETWEEN_KEEPING:
                    self._keep(keep)
                    kept = time.monotonic()
            if self._failure is not None:
                raise self._failure
            assert self._md5 is not None
            self._keep(keep)
            return self._md5
        except (Anew, Changed):
            raise
        except BaseException:
            with suppress(OSError):  # the disk may be full: what was kept before stays
                self._keep(keep)
            raise
        finally:
            self._stopped.set()
            self._leave()

    @property
    def bytes(self) -> int:
        """How many there are."""
        with self._turn:
            return sum(block.position - block.start for block in self._blocks)

    @property
    def _fetched(self) -> bool:
        with self._turn:
            return all(block.position == block.stop for block in self._blocks)

    def _keep(self, keep: Callable[[Version, Extents], None]) -> None:
        """Have written down what is on disk; of a file that comes in one piece nothing can be gone on with."""
        with self._turn:
            version, extents = self.version, _merged(self._blocks)
        if version and extents and (not self._whole or self._fetched):
            os.fdatasync(self._handle)
            keep(version, extents)

    def _start(self, work: Callable[[], None]) -> None:
        """Have a thread do a part of this; it may outlast `run`, which does not wait for a silent server."""

        def working() -> None:
            try:
                work()
            except BaseException as error:  # raised by `run`, in the thread that waits
                self._fail(error)
            finally:
                self._leave()

        with self._turn:
            self._users += 1
            self._workers += work == self._fetch_blocks
        threading.Thread(target=working, name="gpuknn-download", daemon=True).start()

    def _leave(self) -> None:
        """The last who uses the file closes it: no late byte can get into another file of the same number."""
        with self._turn:
            self._users -= 1
            if not self._users:
                os.close(self._handle)

    def _fail(self, error: BaseException) -> None:
        with self._turn:
            self._failure = self._failure or error
            self._stopped.set()
            self._turn.notify_all()

    def _fetch_blocks(self) -> None:
        """What one connection does."""
        failures = 0
        while block := self._take():
            before, enough = block.position, min(GETTING_ON, (block.stop - block.position) // 8)
            error = self._try(block)
            if error is None:
                failures = self._doubts = 0
                continue
            if not isinstance(error, Passing) and not self._doubtful():
                raise error
            failures = 1 if block.position - before > enough else failures + 1
            if failures >= ATTEMPTS:
                with self._turn:
                    self._workers -= 1
                    if self._workers:  # a server may serve fewer connections than that
                        return
                raise RunError(f"{self._url}: {error}; it was tried {failures} times") from error
            asked_for = error.pause if isinstance(error, Passing) else 0.0
            self._pause(max(PAUSE * 2 ** (failures - 1) * random.uniform(0.5, 1), asked_for))

    def _try(self, block: Block) -> Passing | Changed | Anew | None:
        """Fetch a block; what went wrong.  The block is any connection's then, also while this one pauses."""
        try:
            self._fetch(block)
        except (Passing, Changed, Anew) as error:
            return error
        finally:
            with self._turn:
                block.busy = False
        return None

    def _doubtful(self) -> bool:
        """Whether what was fetched is not given up yet, though the server says that it cannot be gone on with."""
        with self._turn:
            self._doubts += 1
            return self._doubts < DOUBTS and any(block.position > block.start for block in self._blocks)

    def _pause(self, seconds: float) -> None:
        with self._turn:
            self._pausing += 1
        self._stopped.wait(min(seconds, LONGEST_PAUSE))
        with self._turn:
            self._pausing -= 1

    def _take(self) -> Block | None:
        """A block for this connection; None if there is nothing more to fetch."""
        with self._turn:
            waited = False
            while not self._stopped.is_set():
                undone = [block for block in self._blocks if block.position < block.stop]
                free = next((block for block in undone if not block.busy), None)
                if not undone:
                    return None
                if free is None and waited and self._sized and not self._whole:
                    free = self._half(max(undone, key=lambda block: block.stop - block.position))
                if free:
                    free.busy = True
                    return free
                waited = not self._turn.wait(HALVED_AFTER)
        return None

    def _half(self, block: Block) -> Block | None:
        """The second half of what is left of another connection's block."""
        middle = (block.position + block.stop) // 2
        if block.stop - middle < HALVED_BYTES:
            return None
        half = Block(middle, middle, block.stop)
        block.stop = middle
        self._blocks.insert(self._blocks.index(block) + 1, half)
        return half

    def _fetch(self, block: Block) -> None:
        with self._turn:
            first, stop, begun = block.position, block.stop, self.version
        with asked(self._client, self._url, first, None if stop == ENDLESS else stop, begun) as answer:
            self._learn(answer, block)
            for chunk in answer.chunks:
                piece = chunk[: min(block.stop, answer.stop) - block.position]
                if self._stopped.is_set() or not piece:
                    break
                _write(self._handle, piece, block.position)
                with self._turn:
                    block.position = min(block.position + len(piece), block.stop)
                    if self._most is not None and block.position > self._most:
                        raise InputError(f"{self._url}: is longer than in the catalogue; it is another file")
                    if block.position == block.stop != stop:
                        break  # another connection has the rest of what was asked for
            else:
                if answer.whole:
                    self._learn_end(block)
        if block.position < min(block.stop, answer.stop) and not self._stopped.is_set():
            raise Passing("the server ended the answer too early")

    def _learn(self, answer: Answer, block: Block) -> None:
        """Take in what an answer says of the file, or that the server sends no ranges."""
        with self._turn:
            if answer.whole and (block.position or len(self._blocks) > 1):
                raise Anew("the server sends no parts of it")
            if not answer.whole and answer.version.size is None:
                raise Anew("the server does not tell how long it is")
            if not answer.whole and self._md5_unknown and not answer.version.known:
                raise Anew("nothing tells one version of it from another")
            self._whole = answer.whole
            if self._met and self._sized:
                return
            self._check(answer.version)
            again, self._met, self.version = self._met, True, answer.version
            if not self._sized:
                self._size(answer.version.size, block)
            if again:
                return
        for _ in range(0 if answer.whole else CONNECTIONS - 1):
            self._start(self._fetch_blocks)

    def _size(self, size: int | None, block: Block) -> None:
        """Cut the file into blocks, the first of which is at hand."""
        self._sized = size is not None
        in_one = self._whole or block.stop == ENDLESS
        block.stop = ENDLESS if size is None else size if in_one else min(BLOCK_BYTES, size)
        if size is not None:
            self._blocks += _cut([(0, block.stop)], size)[1:]

    def _learn_end(self, block: Block) -> None:
        """The answer is complete: if nobody knew how long it would be, that is known now."""
        with self._turn:
            if block.stop == ENDLESS:
                assert self.version
                self.version = Version(block.position, self.version.etag, self.version.modified)
                self._check(self.version)
                block.stop, self._sized = block.position, True

    def _hash(self) -> None:
        md5 = md5_of(self._handle, self._reached)
        with self._turn:
            self._md5 = md5
            self._turn.notify_all()

    def _reached(self, position: int) -> int | None:
        """How far the file is there without a gap, once that is further than `position` or the end."""
        while not self._stopped.is_set():
            with self._turn:
                there = next((b.position for b in self._blocks if b.position < b.stop), None)
                if there is None:
                    return self._blocks[-1].stop
            if there > position:
                return there
            time.sleep(HASH_SECONDS)
        return None


def _cut(extents: Iterable[tuple[int, int]], size: int) -> list[Block]:
    """The blocks of a file, of which `extents` are there: these whole, the gaps in pieces."""
    blocks, at = [], 0
    for start, stop in [*extents, (size, size)]:
        blocks += [Block(a, a, min(a + BLOCK_BYTES, start)) for a in range(at, start, BLOCK_BYTES)]
        blocks += [Block(start, stop, stop)] if stop > start else []
        at = stop
    return blocks


def _merged(blocks: Iterable[Block]) -> Extents:
    """The bytes that are there."""
    extents: Extents = []
    for block in blocks:
        if extents and extents[-1][1] == block.start:
            extents[-1] = extents[-1][0], block.position
        elif block.position > block.start:
            extents.append((block.start, block.position))
    return extents


def _write(handle: int, piece: bytes, position: int) -> None:
    """All of a piece at its place."""
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(handle, rest, position)
        rest, position = rest[written:], position + written
