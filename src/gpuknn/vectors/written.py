"""Which rows of a file somebody wrote: chunks, and bytes of a file, that were never written read as zeros or worse."""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from typing import Literal

from gpuknn.errors import InputError

Missing = Literal["refuse", "zeros"]
"""What becomes of rows that nobody wrote."""
FIEMAP = 0xC020660B
"""The number of Linux' request for a file's extents; the structures and flags below are of `linux/fiemap.h`."""
SYNC, UNWRITTEN = 0x1, 0x800
ASK, EXTENT = struct.Struct("=QQLLLL"), struct.Struct("=QQQQQLLLL")
EXTENTS = 256
"""Asked for at once."""
AGAIN = "copy or write the file again"
ADVICE = "write them, or read them as zeros with --missing zeros"


def check_holes(path: str, where: str, rows: range, offset: int, row_bytes: int, advice: str = ADVICE) -> None:
    """Raise InputError if some of the rows, which begin at a byte of a file, lie in a hole of it.

    A file that was made in its full size and written in part, by a writer that was killed, has holes.  So has a copy
    that a program made sparse (`cp --sparse=always`): there blocks of real zeros are holes, too.
    """
    hole = first_hole(path, offset, offset + len(rows) * row_bytes)
    if hole is not None:
        row = rows.start + (hole - offset) // row_bytes
        raise InputError(
            f"{where}: the file has a hole at row {row} (counted from 0); the row was never written, or a copy of the "
            f"file left out zeros, which the file does not tell; {advice}"
        )


def first_hole(path: str, start: int, stop: int) -> int | None:
    """The first byte from `start` to `stop` that lies in a hole of the file; None if the file system knows of none.

    Room that was made with `fallocate` and never written is a hole, too.  SEEK_HOLE finds such room only until somebody
    reads it, for then its zeros are in memory as if they were data.  So a file system that knows is asked for extents.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that does not tell extents
            return _first_gap(file, start, stop)
        hole = os.lseek(file, start, os.SEEK_HOLE)
    except (OSError, AttributeError):  # no such place, or a system without SEEK_HOLE
        return None
    finally:
        os.close(file)
    return hole if hole < stop else None


def has_holes(path: str) -> bool:
    """Whether some of the file was never written."""
    return first_hole(path, 0, os.path.getsize(path)) is not None


def _first_gap(file: int, start: int, stop: int) -> int | None:
    """The first byte from `start` to `stop` that lies in no extent of the file that was written."""
    at = start
    for begin, end in _extents(file, start, stop):
        if begin > at:
            break
        at = max(at, end)
    return at if at < stop else None


def _extents(file: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Where the extents begin and end that were written, in their order."""
    while start < stop:
        answer = bytearray(ASK.pack(start, stop - start, SYNC, 0, EXTENTS, 0) + bytes(EXTENTS * EXTENT.size))
        ioctl(file, FIEMAP, answer)
        found = ASK.unpack_from(answer)[3]
        for number in range(found):
            begin, _, length, _, _, flags, *_ = EXTENT.unpack_from(answer, ASK.size + number * EXTENT.size)
            start = begin + length
            if not flags & UNWRITTEN:
                yield begin, start
        if found < EXTENTS:
            return
