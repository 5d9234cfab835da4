"""Which rows of a file somebody wrote: chunks, and bytes of a file, that were never written read as zeros or worse."""

import os
import struct
from bisect import bisect_right
from contextlib import suppress
from fcntl import ioctl
from typing import Literal

from gpuknn.errors import InputError, option

Missing = Literal["refuse", "zeros"]
"""What becomes of rows that nobody wrote."""
FIEMAP = 0xC020660B
"""The number of Linux' request for a file's extents; the structures and flags below are of `linux/fiemap.h`."""
SYNC, UNWRITTEN = 0x1, 0x800
ASK, EXTENT = struct.Struct("=QQLLLL"), struct.Struct("=QQQQQLLLL")
EXTENTS = 256
"""Asked for at once."""
HOLES_PACKED = (
    "they were written in part, or a copy of the file left out zeros; the file does not tell which, so they are not "
    "unpacked"
)
"""Why packed chunks with holes are refused, with `--missing zeros`, too: such a hole is not rows of zeros."""
AGAIN = "copy or write the file again"


def check_holes(path: str, where: str, rows: range, offset: int, row_bytes: int, advice: str) -> None:
    """Raise InputError if some of the rows, which begin at a byte of a file, lie in a hole of it.

    A file that was made in its full size and written in part, by a writer that was killed, has holes.  So has a copy
    that a program made sparse (`cp --sparse=always`): there blocks of real zeros are holes, too.
    """
    hole = first_hole(holes_of(path), offset, offset + len(rows) * row_bytes)
    if hole is not None:
        row = rows.start + (hole - offset) // row_bytes
        raise InputError(
            f"{where}: the file has a hole at row {row} (counted from 0); the row was never written, or a copy of the "
            f"file left out zeros; the file does not tell which; {advice}"
        )


def written_advice() -> str:
    """What to do about rows that nobody wrote."""
    return f"write the rows, or {zeros_instead()}"


def zeros_instead() -> str:
    """How such rows can be read all the same."""
    return f"read them as zeros with {option('missing', 'zeros')}"


def first_rows(first: int, length: int, rows: int) -> str:
    """The rows of the first chunk of which something is missing, in words; of `rows` in all."""
    return f"first of rows {first} to {min(first + length, rows) - 1} (counted from 0)"


def first_hole(holes: list[range], start: int, stop: int) -> int | None:
    """The first byte from `start` to `stop` that lies in one of a file's holes; None if there is none."""
    at = bisect_right(holes, start, key=lambda hole: hole.stop)
    if at == len(holes) or holes[at].start >= stop:
        return None
    return max(start, holes[at].start)


def holes_of(path: str) -> list[range]:
    """The bytes of a file that nobody wrote, in their order; none if the file system knows of none.

    Room that was made with `fallocate` and never written is a hole, too.  SEEK_HOLE finds such room only until somebody
    reads it, for then its zeros are in memory as if they were data.  So a file system that can is asked for extents.
    tmpfs and network file systems cannot.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        with suppress(OSError):  # a file system that does not tell extents
            # Without SYNC, room counts as unwritten if what was written there is not on the disk yet.  SYNC waits for
            # the disk, up to a second for 1 GiB, so a file is asked with it only if it seems to have holes.
            return _gaps(file, size, 0) and _gaps(file, size, SYNC)
        with suppress(OSError):
            return _sought(file, size)
    finally:
        os.close(file)
    return []


def _gaps(file: int, size: int, flags: int) -> list[range]:
    """What lies in no extent that was written."""
    gaps, at, written = [], 0, 0
    while at < size:
        answer = bytearray(ASK.pack(at, size - at, flags, 0, EXTENTS, 0) + bytes(EXTENTS * EXTENT.size))
        ioctl(file, FIEMAP, answer)
        found = ASK.unpack_from(answer)[3]
        for number in range(found):
            begin, _, length, _, _, kind, *_ = EXTENT.unpack_from(answer, ASK.size + number * EXTENT.size)
            at = begin + length
            if not kind & UNWRITTEN:
                if begin > written:
                    gaps.append(range(written, min(begin, size)))
                written = max(written, at)
        if found < EXTENTS:  # the flag of the last extent is set at the end of what was asked for, too
            break
    return [*gaps, range(written, size)] if written < size else gaps


def _sought(file: int, size: int) -> list[range]:
    """What SEEK_HOLE and SEEK_DATA tell."""
    holes, at = [], 0
    while (begin := os.lseek(file, at, os.SEEK_HOLE)) < size:
        try:
            at = os.lseek(file, begin, os.SEEK_DATA)
        except OSError:  # none to the end
            at = size
        holes.append(range(begin, at))
        if at >= size:
            break
    return holes
