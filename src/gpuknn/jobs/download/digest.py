"""The md5 sum of a file, also of one that is still growing."""

import hashlib
import os
from collections.abc import Callable

READ_BYTES = 4 * 2**20
"""At once.  hashlib leaves the other threads alone while it works on so many."""


def md5_of(handle: int, reached: Callable[[int], int | None]) -> str | None:
    """The md5 sum of the open file `handle`, read from its beginning.

    `reached(position)` returns how many of its bytes are there, once there are more than `position`, or `position`
    itself if that is the end.  It returns None to stop; so does this function.
    """
    sum_, position = hashlib.md5(usedforsecurity=False), 0
    while (there := reached(position)) is not None:
        if there == position:
            return sum_.hexdigest()
        while position < there:
            read = os.pread(handle, min(READ_BYTES, there - position), position)
            if not read:
                raise OSError(f"the file has ended at byte {position:,}, it was longer before")
            sum_.update(read)
            position += len(read)
    return None
