"""Those rows of a part that a rule keeps."""

from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from gpuknn.jobs.build.metadata import read_kept
from gpuknn.vectors.vectors import Vectors

BLOCK_BYTES = 2**20
"""Of rows that are read at once, the dropped ones among them."""


@dataclass(frozen=True)
class KeptVectors(Vectors):
    """Rows of `source`; which ones is read when rows are."""

    source: Vectors
    receipt: str
    """The path of the receipt of the part's metadata, which says which rows are kept."""

    @classmethod
    def of(cls, source: Vectors, count: int, receipt: str) -> "KeptVectors":
        """`count` rows of `source`."""
        shape = count, source.shape[1]
        return cls(source.path, source.key, shape, source.dtype, source, receipt, missing=source.missing)

    @property
    def bits(self) -> int | None:
        """Those of the source."""
        return self.source.bits

    def absolute(self) -> "KeptVectors":
        """The same rows, for a process with another working folder; `receipt` is absolute."""
        source = self.source.absolute()
        return replace(self, path=source.path, source=source)

    def locate(self, row: int) -> tuple[str, int]:
        """Where the source has it."""
        return self.source.locate(int(_numbers(self.receipt)[row]))

    def held_bytes(self, readers: int) -> int:
        """Those of the source, and the rows among which some are dropped."""
        return self.source.held_bytes(readers) + readers * BLOCK_BYTES

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` with the rows that are kept, from the `first` of them on."""
        if not 0 <= first <= first + len(out) <= len(self):
            raise IndexError(f"rows {first} to {first + len(out)} of {len(self)}")
        numbers = _numbers(self.receipt)[first : first + len(out)]
        most, at = max(1, BLOCK_BYTES // (self.shape[1] * self.dtype.itemsize)), 0
        while at < len(numbers):
            start = int(numbers[at])
            stop = int(np.searchsorted(numbers, start + most))
            span = int(numbers[stop - 1]) + 1 - start
            if span == stop - at:
                self.source.read(start, out[at:stop])
            else:
                np.take(self.source[start : start + span], numbers[at:stop] - start, 0, out[at:stop], "clip")
            at = stop

    def __copy__(self) -> "KeptVectors":
        """With a source of its own, which keeps what it decodes."""
        return replace(self, source=copy(self.source))


@lru_cache(maxsize=64)
def _numbers(receipt: str) -> np.ndarray:
    """(n,) int32: the numbers of the rows that are kept.  A block of rows takes less time than to read a receipt."""
    return read_kept(receipt)
