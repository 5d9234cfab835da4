"""Gold standards of TEXMEX (SIFT1M, GIST1M): for each query k as int32, then k ids as int32, counted from 0."""

from pathlib import Path

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.gold import Gold, from_file
from gpuknn.gold.writer import GoldWriter, Outline
from gpuknn.vectors.written import AGAIN, check_holes


def read_ivecs(path: Path) -> Gold:
    """Read such a file; raises InputError if its lines are not of one length."""
    try:
        words = np.fromfile(path, "<i4")
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    k = int(words[0]) if len(words) else 0
    if k < 1 or size % (4 * (k + 1)):
        raise InputError(f"{path}: is no .ivecs file, or truncated: lines of {k} ids do not make up {size:,} bytes")
    check_holes(str(path), str(path), range(size // (4 * (k + 1))), 0, 4 * (k + 1), AGAIN)
    lines = words.reshape(-1, k + 1)
    other = np.flatnonzero(lines[:, 0] != k)
    if len(other):
        raise InputError(f"{path}: line {other[0]} says that it has {lines[other[0], 0]} ids, the first has {k}")
    return from_file(lines[:, 1:], None, 0, are_rows=False)


class IvecsWriter(GoldWriter):
    """The ids."""

    LIMIT = 2**31
    HOLDS_DISTS = False

    def __init__(self, part: Path, outline: Outline) -> None:
        super().__init__(part, outline)
        self._file = open(part, "wb")  # noqa: SIM115 - closed by close

    def write(self, first: int, gold: Gold) -> None:
        """Write a block behind the last."""
        lines = np.empty((len(gold), self.outline.shape[1] + 1), "<i4")
        lines[:, 0] = self.outline.shape[1]
        lines[:, 1:] = gold.ids if gold.own_ids is None else gold.own_ids
        lines.tofile(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
