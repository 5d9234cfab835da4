"""The conversion job: pieces to workers, receipts to the record, the finished target to its name."""

import hashlib
import os
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpuknn
from gpuknn.convert.rows import Converted
from gpuknn.convert.target import Piece, Target, write_piece
from gpuknn.errors import InputError, RunError
from gpuknn.exact.device import usable_cores
from gpuknn.jobs.conversion_record import ConversionRecord
from gpuknn.vectors import content_fingerprint, file_identity
from gpuknn.vectors.location import absolute, is_url, listing

VERSION = 1
"""Raised when the same options come to write other bytes."""
WINDOW = 2
"""Pieces given to a Dask worker: one at work, one waiting."""
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
    options: dict[str, str | int | bool | None]
    """What was asked for, for the record and the target's attributes."""

    def fingerprint(self, identity: str) -> str:
        """Of everything that decides the target's bytes; `identity` is the source files'."""
        target = repr(replace(self.target, path=""))
        parts = VERSION, identity, self.rows.first, self.rows.normalize, target, sorted(self.options.items())
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


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
    record = ConversionRecord(conversion.destination)
    target, source = conversion.target, conversion.rows.source
    identity = file_identity(source)
    with record.held(conversion.fingerprint(identity), conversion.options, fresh) as done:
        try:
            if not done or not (is_url(target.path) or os.path.exists(target.path)):
                done = []
                record.begin_anew()
                _check_room(target, record.folder)
                target.create()
            todo = _todo(target, done)
            progress(target.shape[0] - sum(map(len, todo)))
            with closing(_written(conversion, todo, workers, where)) as written:
                for piece in written:
                    record.add(piece)
                    done.append(piece)
                    progress(sum(p.stop - p.first for p in done))
            if file_identity(source) != identity:
                raise RunError(f"{source.where}: was changed while it was converted; run the same command with --fresh")
            target.finish(_notes(conversion, done))
            if not is_url(conversion.destination):
                record.publish(Path(conversion.destination))
        except BaseException as error:
            if isinstance(error, InputError) or not done:
                with suppress(InputError, RunError):
                    target.discard()
                record.remove()
            raise
        record.remove()
    return Outcome(len(done), len(todo), max(p.error for p in done), time.monotonic() - started)


def check_destination(destination: str, source: str, force: bool) -> None:
    """Raise InputError where the destination cannot or should not be written."""
    if is_url(destination):
        there = [stored.name for stored in listing(destination)]
        begun = ConversionRecord(destination).folder.is_dir()
        if there and not force and not begun:
            raise InputError(f"{destination}: {len(there)} objects are there already; --force replaces them")
        _refuse_others(destination, there)
        return
    path = Path(destination)
    try:
        exists, real = path.exists(), path.resolve()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no name for a file ({getattr(error, 'strerror', error)})") from error
    if not path.name:
        raise InputError(f"{destination or 'DST'}: is no name for a file")
    if not real.parent.is_dir():
        raise InputError(f"{path.parent}: there is no such folder to write {path.name} to")
    if not is_url(source):
        origin = Path(source).resolve()
        if real.is_relative_to(origin) or origin.is_relative_to(real):
            raise InputError(f"{path}: is, holds or lies in the source of this very command; name another output")
    if exists and not force:
        raise InputError(f"{path}: exists already; --force replaces it")
    if path.is_dir():
        _refuse_others(destination, [stored.name for stored in listing(destination)])
    if not os.access(real.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written; its folder is read-only")


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
    most = min(len(todo), _fitting(conversion.target))
    with _pool(workers, where, most) as (pool, window):
        everywhere = _everywhere(conversion)
        try:
            while waiting or running:
                while waiting and len(running) < window():
                    piece = waiting.popleft()
                    running[pool.submit(write_piece, everywhere.rows, everywhere.target, piece)] = piece.start
                finished = wait(running, return_when=FIRST_COMPLETED).done
                if any(future.exception() for future in finished):
                    finished = wait(running).done
                for future in sorted(finished, key=running.__getitem__):
                    yield _result(future)
                    del running[future]
        finally:
            for future in running:
                future.cancel()


def _fitting(target: Target) -> int:
    """How many pieces may be in memory at once."""
    if not target.piece_memory:
        return sys.maxsize
    from gpuknn.jobs.memory import memory_budget  # which loads Dask

    return max(1, memory_budget(None) // target.piece_memory)


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
    from gpuknn.jobs.cluster import cluster
    from gpuknn.jobs.workers import choose_workers

    chosen = choose_workers("cpu", min(workers or 1, most), usable_cores())
    with cluster(where, chosen) as client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise InputError(f"--cluster {where}: no worker is there, and none came in {PATIENCE} s") from error
        yield client.get_executor(pure=False, retries=1), lambda: WINDOW * max(1, len(client.nthreads()))


def _result(future: "Future[Piece]") -> Piece:
    try:
        return future.result()
    except (InputError, RunError, OSError):
        raise
    except Exception as error:
        raise RunError(
            f"a piece failed: {type(error).__name__}: {error}; finished ones are kept, the same command goes on"
        ) from error


def _everywhere(conversion: Conversion) -> Conversion:
    """The same where the working folder is another."""
    source = replace(conversion.rows.source, path=absolute(conversion.rows.source.path))
    target = replace(conversion.target, path=absolute(conversion.target.path))
    return replace(conversion, rows=replace(conversion.rows, source=source), target=target)


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
        "piece_rows": conversion.target.piece_rows,
        "crc32c": [piece.crc32c for piece in sorted(pieces, key=lambda piece: piece.first)],
    }
