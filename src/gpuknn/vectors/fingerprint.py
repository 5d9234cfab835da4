"""How a database is told from another: by what it holds, and by whether it changed since."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass

import numpy as np

from gpuknn.errors import InputError, RunError, same_again
from gpuknn.vectors.vectors import Vectors

SAMPLES = 64
SAMPLE_BYTES = 2**16
SAMPLERS = 4
"""Samples read at once: each may wait for an object store, or for a chunk to be decoded."""
HELD_MOST = 2**29
"""Bytes that may be held for them; where it would be more, one is read at a time."""


def content_fingerprint(vectors: Vectors) -> str:
    """Shape, dtype and a sample of the rows (evenly spread runs of 64 KiB), hashed; 32 hexadecimal digits.

    Equal for equal content wherever and however it is stored.
    """
    n, d = vectors.shape
    digest = hashlib.blake2b(f"{n} {d} {vectors.dtype.str}".encode(), digest_size=16)
    run = min(n, max(1, SAMPLE_BYTES // (d * vectors.dtype.itemsize)))
    firsts = np.unique(np.linspace(0, n - run, SAMPLES).astype(np.int64)).tolist()
    tried = copy(vectors)  # what it decodes and keeps goes with it
    samplers = SAMPLERS if vectors.held_bytes(SAMPLERS) <= HELD_MOST else 1
    with ThreadPoolExecutor(samplers) as pool:
        for rows in pool.map(lambda first: tried[first : first + run], firsts):
            digest.update(rows.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Sampled:
    """What a database or a set of queries held when it was looked at."""

    content: str
    """`content_fingerprint`."""
    state: str
    """`file_state`."""
    identity: str
    """Of both and the key: not equal once something was written to the files."""


def sampled(vectors: Vectors) -> Sampled:
    """Look at the rows once.

    Raises RunError if somebody writes to the files meanwhile: what was seen would be neither the old rows nor the new.
    """
    state = file_state(vectors)
    content = content_fingerprint(vectors)
    if file_state(vectors) != state:
        raise RunError(f"{vectors.where}: was changed while it was looked at; {same_again()} looks again")
    parts = content, vectors.key, state
    return Sampled(content, state, hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest())


def file_state(vectors: Vectors) -> str:
    """The files' sizes and times of change (of objects in a store their tags), hashed: cheap to look at again.

    Raises RunError where they cannot be looked at: they could when they were opened.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        files = vectors.stored()
    except InputError as error:
        raise RunError(str(error)) from error
    for stored in files:
        digest.update(f"{stored.name} {stored.size} {stored.stamp}\n".encode())
    return digest.hexdigest()
