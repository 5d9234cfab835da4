"""Which rows of a file somebody wrote: chunks, and bytes of a file, that were never written read as zeros or worse."""

import os
from typing import Literal

from gpuknn.errors import InputError

Missing = Literal["refuse", "zeros"]
"""What becomes of rows that nobody wrote."""
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
    """The first byte from `start` to `stop` that lies in a hole of the file; None if the file system knows of none."""
    file = os.open(path, os.O_RDONLY)
    try:
        hole = os.lseek(file, start, os.SEEK_HOLE)
    except (OSError, AttributeError):  # no such place, or a system without SEEK_HOLE
        return None
    finally:
        os.close(file)
    return hole if hole < stop else None


def has_holes(path: str) -> bool:
    """Whether some of the file was never written."""
    return first_hole(path, 0, os.path.getsize(path)) is not None
