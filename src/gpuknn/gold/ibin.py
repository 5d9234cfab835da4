"""Truth files of DiskANN and big-ann-benchmarks: n and k as uint32, n x k ids as uint32, n x k distances as float32.

Ids begin at 0; inner products are stored as they are, the largest first.  cuVS writes the same without distances.
"""

import os
from pathlib import Path

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.gold import NONE_UNSIGNED, Gold, from_file, negated
from gpuknn.gold.writer import GoldWriter, Outline
from gpuknn.vectors.written import AGAIN, check_holes


def read_ibin(path: Path) -> Gold:
    """Read such a file; raises InputError if its size is not what its header says."""
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
            check_holes(str(path), str(path), range(n), 8, 4 * k, AGAIN)
            if size > 8 + 4 * entries:
                check_holes(str(path), str(path), range(n), 8 + 4 * entries, 4 * k, AGAIN)
            ids = np.fromfile(file, "<u4", entries).reshape(n, k)
            dists = np.fromfile(file, "<f4", entries).reshape(n, k) if size > 8 + 4 * entries else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return from_file(ids, dists, 0, are_rows=False, products_negated=False)


class IbinWriter(GoldWriter):
    """Ids, and distances as float32 if there are any."""

    LIMIT = NONE_UNSIGNED
    DISTS = "float32"

    def __init__(self, part: Path, outline: Outline) -> None:
        super().__init__(part, outline)
        self._file = open(part, "wb")  # noqa: SIM115 - closed by close
        np.array(outline.shape, "<u4").tofile(self._file)
        nq, k = outline.shape
        os.posix_fallocate(self._file.fileno(), 0, 8 + 4 * nq * k * (1 if outline.dists is None else 2))

    def write(self, first: int, gold: Gold) -> None:
        """Write a block where it belongs."""
        nq, k = self.outline.shape
        self._file.seek(8 + 4 * first * k)
        (gold.ids if gold.own_ids is None else gold.own_ids).astype("<u4").tofile(self._file)
        if gold.dists is not None:
            self._file.seek(8 + 4 * (nq + first) * k)
            turns = gold.distance == "ip" or (gold.were_similarities and gold.distance != "dot")
            (negated(gold.dists) if turns else gold.dists).astype("<f4").tofile(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
