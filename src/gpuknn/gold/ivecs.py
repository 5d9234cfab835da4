"""Gold standards of TEXMEX (SIFT1M, GIST1M): for each query k as int32, then k ids as int32, counted from 0."""

from pathlib import Path

import numpy as np

from gpuknn.errors import InputError
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold.ids_only import without_distances


def read_ivecs(path: Path) -> Neighbors:
    """Read such a file; raises InputError where its lines are not of one length."""
    try:
        words = np.fromfile(path, "<i4")
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    k = int(words[0]) if len(words) else 0
    if k < 1 or size % (4 * (k + 1)):
        raise InputError(f"{path}: is no .ivecs file, or truncated: lines of {k} ids do not make up {size:,} bytes")
    lines = words.reshape(-1, k + 1)
    other = np.flatnonzero(lines[:, 0] != k)
    if len(other):
        raise InputError(f"{path}: line {other[0]} says that it has {lines[other[0], 0]} ids, the first has {k}")
    return without_distances(lines[:, 1:])


def write_ivecs(path: Path, neighbors: Neighbors) -> None:
    """Write the ids."""
    nq, k = neighbors.ids.shape
    lines = np.empty((nq, k + 1), "<i4")
    lines[:, 0] = k
    lines[:, 1:] = neighbors.ids
    lines.tofile(path)
