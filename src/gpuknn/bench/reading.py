"""How fast rows are read from their file, and a folder's disk."""

import os
import tempfile
import time
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuknn.vectors import Vectors
from gpuknn.vectors.decoded import DecodedVectors

TRIED_BYTES = 2**26
"""Of the database, read to learn how fast it is read."""
RUN_BYTES = 2**22
"""Read, or written to a disk, at once."""


@dataclass(frozen=True)
class Disk:
    """One file, written and read back."""

    folder: str
    bytes: int
    read: float | None
    """Bytes a second; None if the file could not be written."""
    said: str


def reading_rate(vectors: Vectors) -> float:
    """Bytes a second of reading rows, tried on runs of them that are spread over the file.

    Rows that are decoded are read from the first on, up to the end of a band: of others much would be decoded in vain.
    """
    row_bytes = vectors.nbytes // len(vectors)
    run = min(len(vectors), max(1, RUN_BYTES // row_bytes))
    if isinstance(vectors, DecodedVectors):
        tried = range(0, vectors.band(min(len(vectors), max(1, TRIED_BYTES // row_bytes)) - 1).stop)
        runs = [tried[a : a + run] for a in tried[::run]]
    else:
        firsts = np.unique(np.linspace(0, len(vectors) - run, TRIED_BYTES // RUN_BYTES).astype(np.int64)).tolist()
        runs = [range(first, first + run) for first in firsts]
    room = np.empty((run, vectors.shape[1]), vectors.dtype)
    room.fill(0)  # its pages are there before the clock starts
    tried_on = copy(vectors)  # what it decodes and keeps goes with it
    began = time.perf_counter()
    for rows in runs:
        tried_on.read(rows.start, room[: len(rows)])
    return sum(map(len, runs)) * row_bytes / (time.perf_counter() - began)


def try_disk(folder: Path, size: int) -> Disk:
    """Write a file that goes away by itself, ask the system to forget it, read it."""
    block = np.random.default_rng(0).bytes(RUN_BYTES)
    room = bytearray(RUN_BYTES)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            for _ in range(size // RUN_BYTES):
                file.write(block)
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            started = time.perf_counter()
            while file.readinto(room):
                pass
            seconds = time.perf_counter() - started
    except OSError as error:
        return Disk(str(folder), size, None, f"not measured: {error.strerror}")
    return Disk(str(folder), size, size / seconds, "one thread; a cache may flatter it")
