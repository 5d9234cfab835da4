"""Truth files of DiskANN and big-ann-benchmarks: n and k as uint32, n x k ids as uint32, n x k distances as float32.

Row numbers begin at 0.  cuVS writes the same without the distances.
"""

from pathlib import Path

import numpy as np

from gpuknn.errors import InputError
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold.ids_only import has_distances, without_distances


def read_ibin(path: Path) -> Neighbors:
    """Read such a file; raises InputError where its size is not what its header says."""
    try:
        with open(path, "rb") as file:
            header = np.fromfile(file, "<u4", 2)
            n, k = (int(x) for x in header) if len(header) == 2 else (0, 0)
            size, entries = path.stat().st_size, n * k
            if entries == 0 or size not in (8 + 4 * entries, 8 + 8 * entries):
                raise InputError(
                    f"{path}: {size:,} bytes are not the {n:,} x {k:,} neighbours of its header; "
                    "it is truncated, or no truth file"
                )
            ids = np.fromfile(file, "<u4", entries).reshape(n, k).astype(np.int64)
            if size == 8 + 4 * entries:
                return without_distances(ids)
            return Neighbors(ids, np.fromfile(file, "<f4", entries).reshape(n, k))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def write_ibin(path: Path, neighbors: Neighbors) -> None:
    """Write ids, and distances as float32 where there are any."""
    with open(path, "wb") as file:
        np.array(neighbors.ids.shape, "<u4").tofile(file)
        neighbors.ids.astype("<u4").tofile(file)
        if has_distances(neighbors):
            neighbors.dists.astype("<f4").tofile(file)
