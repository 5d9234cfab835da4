"""The conversion job: pieces to workers, receipts to the record, the finished target to its name."""

import os
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import gpuknn
from gpuknn.engine.choose import usable_cores
from gpuknn.errors import InputError, RunError
from gpuknn.jobs.convert.conversion_record import ConversionRecord
from gpuknn.storage.durable import digest
from gpuknn.storage.location import absolute, is_url, listing
from gpuknn.vectors import content_fingerprint, file_identity
from gpuknn.vectors.converted import Converted
from gpuknn.vectors.target import Piece, Target, write_piece
from gpuknn.workers.workers import LOOK_EVERY, LOST_AFTER, WINDOW, choose_workers

VERSION = 2
"""Raised when the same options come to write other bytes."""
THREADS = 2
"""For each core: while one waits for the disk another reads."""
PATIENCE = 30
"""Seconds that a cluster's first worker is waited for."""
ONE_ARRAY = re.compile(r"zarr\.json|\.zarray|\.zattrs|c(/\d+){0,2}|\d+\.\d+")
"""Names in a Zarr store of one matrix: nothing else is ever replaced."""


@dataclass(frozen=True)
class Conversion:
    """What is to be written, and what it is called meanwhile (`ConversionRecord.unfinished`)."""

    rows: Converted
    target: Target
    destination: str
    options: dict[str, str | float | bool | None]
    """What was asked for, for the record and the target's attributes."""
    beside: tuple[str, ...] = ()
    """Other files that the target takes something from."""

    def identities(self) -> dict[str, str]:
        """What tells that the source, or a file beside it, was changed."""
        source = self.rows.source
        return {path: repr(listing(path)) for path in self.beside} | {source.where: file_identity(source)}

    def fingerprint(self, identities: dict[str, str]) -> str:
        """Of everything that decides the target's bytes, where they are written, and the pieces."""
        place = self.destination.rstrip("/") if is_url(self.destination) else ""
        target = repr(replace(self.target, path=place)), self.target.piece_rows
        rows = self.rows.first, self.rows.normalize, self.rows.scale, self.rows.round
        parts = VERSION, sorted(identities.items()), rows, target, sorted(self.options.items())
        return digest(repr(parts).encode())


@dataclass(frozen=True)
class Outcome:
    """What a conversion did."""

    pieces: int
    written: int
    """Pieces that were not there already."""
    error: float
    """The largest that rounding has made."""
    seconds: float


def run_convert(
    conversion: Conversion,
    workers: int | None = None,
    where: str = "local",
    fresh: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Write the target and give it its name; goes on from what an earlier call has finished.

    `workers`: processes; None: threads of this one.  `progress` is told how many rows are on disk.  Raises InputError
    where the source cannot be converted, and then leaves nothing behind; RunError or OSError where the same call goes
    on later.
    """
    started = time.monotonic()
    _refuse_too_large(conversion)
    record = ConversionRecord(conversion.destination)
    identities = conversion.identities()
    with record.held(conversion.fingerprint(identities), conversion.options, fresh) as done:
        there = len(done)
        if not record.published:  # else killed as only the record was left to remove
            there = _finish(conversion, identities, record, done, workers, where, progress)
        record.remove()
    error = max((piece.error for piece in done), default=0.0)
    pieces = -(-conversion.target.shape[0] // conversion.target.piece_rows)
    return Outcome(pieces, len(done) - there, error, time.monotonic() - started)


def _refuse_too_large(conversion: Conversion) -> None:
    """Raise InputError if this machine has not the memory to decode the source, before it is tried."""
    source = conversion.rows.source
    need = source.held_bytes(1)
    if not need:
        return
    from gpuknn.workers.memory import machine_memory  # which loads Dask

    there = machine_memory()
    if need > there:
        raise InputError(
            f"{source.where}: takes {need / 2**30:.2f} GiB of memory to be decoded, this machine has "
            f"{there / 2**30:.2f} GiB; convert it on a larger one"
        )


def _finish(
    conversion: Conversion,
    identities: dict[str, str],
    record: ConversionRecord,
    done: list[Piece],
    workers: int | None,
    where: str,
    progress: Callable[[int], None],
) -> int:
    """Write what is not `done`, to which it is added, and publish; how many pieces were there."""
    target = conversion.target
    try:
        if not done or not (is_url(target.path) or os.path.exists(target.path)):
            done.clear()
            record.begin_anew()
            _check_room(target, record.folder)
            target.create()
        there, todo = len(done), _todo(target, done)
        progress(target.shape[0] - sum(map(len, todo)))
        with closing(_written(conversion, todo, workers, where)) as written:
            for piece in written:
                record.add(piece)
                done.append(piece)
                progress(sum(p.stop - p.first for p in done))
        try:
            now = conversion.identities()
        except InputError as error:  # it could be read before: what was written stays
            raise RunError(str(error)) from error
        for path, identity in identities.items():
            if now[path] != identity:
                raise RunError(f"{path}: was changed while it was converted; run the same command with --fresh")
        target.finish(_notes(conversion, done))
        if not is_url(conversion.destination):
            record.publish()
    except BaseException as error:
        if isinstance(error, InputError) or not done:
            with suppress(InputError, RunError):
                target.discard()
            record.remove()
        raise
    return there


def check_destination(destination: str, sources: list[str], force: bool, fresh: bool) -> None:
    """Raise InputError where the destination cannot or should not be written; `sources` are read meanwhile."""
    if is_url(destination):
        _refuse_source(destination, sources)
        there = [stored.name for stored in listing(destination)]
        if there and not force and not ConversionRecord(destination).begun:
            raise InputError(f"{destination}: {len(there)} objects are there already; --force replaces them")
        _refuse_others(destination, there)
        return
    path = Path(destination)
    real = _place(destination)
    try:
        exists = path.exists()
    except OSError as error:
        raise InputError(f"{path}: is no name for a file ({error.strerror})") from error
    if not path.name:
        raise InputError(f"{destination or 'DST'}: is no name for a file")
    if not Path(real.parent).is_dir():
        raise InputError(f"{path.parent}: there is no such folder to write {path.name} to")
    _refuse_source(destination, sources)
    if exists and not force and (fresh or not ConversionRecord(destination).published):
        raise InputError(f"{path}: exists already; --force replaces it")
    if path.is_dir():
        _refuse_others(destination, [stored.name for stored in listing(destination)])
    if not os.access(real.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written; its folder is read-only")


def _refuse_source(destination: str, sources: list[str]) -> None:
    place = _place(destination)
    for source in sources:
        origin = _place(source)
        if place.is_relative_to(origin) or origin.is_relative_to(place):
            raise InputError(
                f"{destination}: is, holds or lies in {source}, a source of this very command; name another output"
            )


def _place(path: str) -> PurePath:
    """The same for two names of one file or prefix."""
    if is_url(path):
        return PurePosixPath(path)
    try:
        return Path(path).resolve()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no name for a file ({getattr(error, 'strerror', error)})") from error


def _refuse_others(destination: str, names: list[str]) -> None:
    other = next((name for name in names if not ONE_ARRAY.fullmatch(name)), None)
    if other is not None:
        raise InputError(f"{destination}: is not one Zarr array, it holds {other}; name another output")


def _check_room(target: Target, folder: Path) -> None:
    """Raise RunError where the disk is too small; compressed targets are found out as they are written."""
    if is_url(target.path) or getattr(target, "compression", "none") != "none":
        return
    free = shutil.disk_usage(folder).free
    if free < target.nbytes:
        raise RunError(
            f"{folder}: {free / 2**20:,.0f} MiB are free, {target.nbytes / 2**20:,.0f} MiB are needed; "
            "make room and run the same command again"
        )


def _todo(target: Target, done: list[Piece]) -> list[range]:
    n, size = target.shape[0], target.piece_rows
    there = {piece.first for piece in done}
    return [range(a, min(a + size, n)) for a in range(0, n, size) if a not in there]


def _written(
    conversion: Conversion, todo: list[range], workers: int | None, where: str
) -> Generator[Piece, None, None]:
    """Have the pieces written, a few at a time, in whatever order they are finished.

    Of several that fail the first is told: the pieces before it have all been begun.
    """
    if not todo:
        return
    waiting = deque(todo)
    running: dict[Future[Piece], int] = {}
    failed: dict[int, Future[Piece]] = {}
    most = min(len(todo), _fitting(conversion, workers))
    with _pool(workers, where, most) as (pool, window):
        everywhere = _everywhere(conversion)
        try:
            while running or (waiting and not failed):
                while waiting and not failed and len(running) < max(1, window()):
                    piece = waiting.popleft()
                    running[pool.submit(write_piece, everywhere.rows, everywhere.target, piece)] = piece.start
                for future in _ended(running, window):
                    first = running.pop(future)
                    if future.cancelled() or future.exception():
                        failed[first] = future
                    else:
                        yield future.result()
        finally:
            for future in running:
                future.cancel()
    if failed:
        _tell(failed[min(failed)])


def _ended(running: Iterable["Future[Piece]"], window: Callable[[], int]) -> set["Future[Piece]"]:
    """Those that have ended, once there are some; raises RunError where there is nobody to end them."""
    seen = time.monotonic()
    while not (ended := wait(running, LOOK_EVERY, FIRST_COMPLETED).done):
        if window():
            seen = time.monotonic()
        elif time.monotonic() - seen > LOST_AFTER:
            raise RunError(
                f"no worker was there for {LOST_AFTER:.0f} s; finished pieces are kept, the same command goes on"
            )
    return ended


def _fitting(conversion: Conversion, workers: int | None) -> int:
    """How many pieces may be in memory at once, with the rows that their readers hold decoded."""
    each, source = conversion.target.piece_memory, conversion.rows.source
    if not each + source.held_bytes(1):
        return sys.maxsize
    from gpuknn.workers.memory import memory_budget  # which loads Dask

    budget, most = memory_budget(None), max(workers or 0, THREADS * usable_cores())
    return next((n for n in range(most, 1, -1) if n * each + source.held_bytes(n) <= budget), 1)


@contextmanager
def _pool(workers: int | None, where: str, most: int) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """Threads of this process, or Dask's workers; and how many pieces they should be given, of which `most` are begun.

    Reading and writing release the GIL, so that processes are needed for other machines only; starting them
    takes longer than a gigabyte does.
    """
    if workers is None and where == "local":
        width = min(THREADS * usable_cores(), most)
        with ThreadPoolExecutor(width, thread_name_prefix="gpuknn-convert") as pool:
            yield pool, lambda: width
        return
    from gpuknn.workers.cluster import cluster

    chosen = choose_workers("cpu", min(workers or 1, most), usable_cores())
    with cluster(where, chosen) as client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise InputError(f"--cluster {where}: no worker is there, and none came in {PATIENCE} s") from error
        yield client.get_executor(pure=False, retries=1), lambda: WINDOW * len(client.nthreads())


def _tell(future: "Future[Piece]") -> None:
    """Raise what the future has failed with, in words for the person at the terminal."""
    try:
        future.result()
    except (InputError, RunError, OSError):
        raise
    except Exception as error:
        raise RunError(
            f"a piece failed: {type(error).__name__}: {error}; finished ones are kept, the same command goes on"
        ) from error


def _everywhere(conversion: Conversion) -> Conversion:
    """The same where the working folder is another."""
    target = replace(conversion.target, path=absolute(conversion.target.path))
    return replace(conversion, rows=conversion.rows.absolute(), target=target)


def _notes(conversion: Conversion, pieces: list[Piece]) -> dict[str, Any]:
    """What the target says of itself: where it comes from, and a checksum of each piece's rows."""
    rows, source = conversion.rows, conversion.rows.source
    return {
        "version": gpuknn.__version__,
        "source": Path(source.path).name,
        "source_key": source.key or "",
        "source_shape": list(source.shape),
        "source_dtype": source.dtype.name,
        "source_fingerprint": content_fingerprint(source),
        "key": getattr(conversion.target, "key", ""),
        "rows": f"{rows.first}:{rows.first + len(rows)}",
        "normalized": rows.normalize,
        "scaled_by": 1.0 if rows.scale is None else rows.scale,
        "rounded_to_whole_numbers": rows.round,
        "piece_rows": conversion.target.piece_rows,
        "crc32c": [piece.crc32c for piece in sorted(pieces, key=lambda piece: piece.first)],
    }
