"""Jobs whose work is pieces of rows, done in any order: what is done of them, and the rest in its workers' hands."""

import re
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from gpuknn.storage.durable import read_sealed, write_sealed
from gpuknn.workers.feed import Feeder, result_of

RECEIPT = re.compile(r"(\d+)-(\d+)\.json")


def write_receipt(folder: Path, rows: range, said: dict[str, Any]) -> None:
    """Keep in a job's folder that a piece is on disk, and what is known of it."""
    write_sealed(_receipt(folder, rows), said)


def remove_receipt(folder: Path, rows: range) -> None:
    """Remove what was kept of a piece."""
    _receipt(folder, rows).unlink()


def read_receipts(folder: Path) -> dict[range, dict[str, Any]]:
    """The pieces that are on disk, in order; a receipt that is damaged does not count."""
    names = sorted(file for file in folder.iterdir() if RECEIPT.fullmatch(file.name))
    found = {range(*map(int, file.stem.split("-"))): read_sealed(file) for file in names}
    return {rows: said for rows, said in found.items() if said}


def work_through(
    feeder: Feeder, pieces: Sequence[range], work: Callable[..., Any], *arguments: Any
) -> Generator[tuple[range, Any], None, None]:
    """Have `work(*arguments, piece)` done for each piece; pieces and results, as they end.

    Once a piece has failed no more are begun.  Of several that fail the first is told: those before it were begun.
    After an interrupt those that were begun still come, before KeyboardInterrupt is raised.
    """
    waiting = deque(pieces)
    failed: dict[int, Any] = {}
    interrupt: KeyboardInterrupt | None = None
    try:
        while len(feeder) or (waiting and not failed):
            while waiting and not failed and len(feeder) < feeder.room():
                piece = waiting.popleft()
                feeder.give(piece, work, *arguments, piece, name=f"piece-r{piece.start}")
            try:
                piece, future = feeder.take()
            except KeyboardInterrupt as error:
                if interrupt:
                    raise
                interrupt = error
                waiting.clear()
                feeder.stop()
                continue
            if future.cancelled() or future.exception():
                failed[piece.start] = future
            else:
                yield piece, future.result()
    finally:
        feeder.cancel()
    if interrupt:
        raise interrupt
    if failed:
        result_of(failed[min(failed)])


def _receipt(folder: Path, rows: range) -> Path:
    return folder / f"{rows.start:012d}-{rows.stop:012d}.json"
