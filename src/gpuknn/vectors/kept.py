"""Those rows of a file that a rule keeps."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from gpuknn.vectors.vectors import Vectors

BLOCK_BYTES = 2**20
"""Of rows that are read at once, the dropped ones among them."""


@dataclass(frozen=True)
class KeptVectors(Vectors):
    """Rows of `source`; which ones is read when rows are."""

    source: Vectors
    kept_in: str
    """A file that says which."""
    read_kept: Callable[[str], np.ndarray]
    """(n,) int32: reads such a file, the numbers of the rows in order."""

    @classmethod
    def of(cls, source: Vectors, count: int, kept_in: str, read_kept: Callable[[str], np.ndarray]) -> "KeptVectors":
        """`count` rows of `source`."""
        shape = count, source.shape[1]
        return cls(source.path, source.key, shape, source.dtype, source, kept_in, read_kept, missing=source.missing)

    @property
    def bits(self) -> int | None:
        """Those of the source."""
        return self.source.bits

    def absolute(self) -> "KeptVectors":
        """The same rows, for a process with another working folder; `kept_in` is absolute."""
        source = self.source.absolute()
        return replace(self, path=source.path, source=source)

    def locate(self, row: int) -> tuple[str, int]:
        """Where the source has it."""
        return self.source.locate(int(self._numbers[row]))

    def held_bytes(self, readers: int) -> int:
        """Those of the source, and the rows among which some are dropped."""
        return self.source.held_bytes(readers) + readers * BLOCK_BYTES

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` with the rows that are kept, from the `first` of them on."""
        numbers = self._numbers[first : first + len(out)]
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

    @property
    def _numbers(self) -> np.ndarray:
        return _numbers(self.kept_in, self.read_kept)

    def __copy__(self) -> "KeptVectors":
        """With a source of its own, which keeps what it decodes."""
        return replace(self, source=copy(self.source))


@lru_cache(maxsize=8)
def _numbers(kept_in: str, read_kept: Callable[[str], np.ndarray]) -> np.ndarray:
    """Of a file at a time: a part of LAION has a million rows, and several threads read one part."""
    return read_kept(kept_in)
