"""Files that are there, compared with their md5 sums."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gpuknn.errors import RunError
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.download.digest import md5_of
from gpuknn.laion.held import Held, held, keep_md5
from gpuknn.progress import Listener, step

TOLD_BYTES = 64 * 2**20
"""After so many it is told how far the reading is."""


def verify(files: Sequence[Held], on_event: Listener = lambda _: None) -> list[Held]:
    """Read all files that are there; what is known of them then.

    A file that cannot be read is wrong.  So is one that has changed since it was read before, as far as its size tells
    that, or its bytes under the same time of change, if nobody has published its md5 sum.  `on_event` is told a `step`
    (`gpuknn.progress`) and what it names.  Raises RunError if a file changes while it is read.
    """
    there = [each for each in files if each.path.is_file()]
    if there:
        on_event(step("verifying", sum(each.bytes for each in there), "verified", "bytes", row_bytes=1))
    before, found = 0, {}
    with interrupts_told():
        for each in there:
            found[each.path] = verified(each, lambda n, b=before: on_event({"event": "verified", "bytes": b + n}))  # type: ignore[misc]
            before += each.bytes
    return [found.get(each.path, each) for each in files]


def verified(each: Held, on_bytes: Callable[[int], None]) -> Held:
    """The same for one file; `on_bytes` is told how many of its bytes are read."""
    try:
        before = _stamp(each.path)
        md5 = _md5(each.path, on_bytes)
        after = _stamp(each.path)
    except OSError:
        return replace(each, state="wrong", md5=None)
    if before != after:
        raise RunError(f"{each.path}: was changed while it was read; wait until nobody writes to it, and repeat this")
    if each.file.md5 is None and (each.state == "wrong" or each.md5 not in (None, md5)):
        return replace(each, state="wrong", md5=md5)
    with suppress(OSError):  # somebody else's folder: the file will be read again the next time
        keep_md5(each.path, md5)
    if each.file.md5 is None:
        return replace(held(each.path.parent, each.file), md5=md5)
    return replace(each, md5=md5, state="verified" if md5 == each.file.md5 else "wrong")


def _stamp(path: Path) -> tuple[int, int, int]:
    """Not equal once something was written to a file, or another has its name."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _md5(path: Path, on_bytes: Callable[[int], None]) -> str:
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size

        def reached(position: int) -> int:
            on_bytes(position)
            return min(position + TOLD_BYTES, size)

        md5 = md5_of(handle, reached)
    finally:
        os.close(handle)
    assert md5 is not None  # it is None only if `reached` returns None
    return md5
