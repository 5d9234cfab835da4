"""Rows made of those of another database, one by one."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from gpuknn.progress import Listener
from gpuknn.vectors.ids import RowIds, own_ids, rows_of
from gpuknn.vectors.vectors import Vectors

BLOCK_BYTES = 2**20
"""Of rows at once that stay in the processor's cache."""


@dataclass(frozen=True)
class Derived(Vectors):
    """Rows of another `Vectors`, as they will be written."""

    source: Vectors
    first: int
    """The row of the source that becomes row 0."""
    block_bytes = BLOCK_BYTES
    """Of rows that are read, made and written at once."""
    counts = "error"
    """What `take` counts: by default the largest error that rounding has made."""

    @property
    @abstractmethod
    def said(self) -> dict[str, Any]:
        """What was done to the rows, for the notes of what is written; equal for equal bytes."""

    @abstractmethod
    def take(self, first: int, out: np.ndarray) -> float:
        """Fill `out` with the rows from `first` on; raises InputError if one cannot be made.

        Returns what is counted of them: of all rows it is what `together` makes of that of some and of others.
        """

    def prepare(self, told: Listener) -> None:
        """Do what has to be done once on this machine before rows are made; `told` hears of it."""

    def together(self, some: float, others: float) -> float:
        """The larger."""
        return max(some, others)

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` with the rows from `first` on; raises InputError if one cannot be made."""
        self.take(first, out)

    def row_ids(self) -> RowIds | None:
        """What the source calls these rows, if that is not their numbers; raises InputError if it tells no row."""
        return rows_of(own_ids(self.source.ids), range(self.first, self.first + len(self)))

    def absolute(self) -> Self:
        """The same rows, for a process with another working folder."""
        return replace(self, source=self.source.absolute())

    def held_bytes(self, readers: int) -> int:
        """Those of the source."""
        return self.source.held_bytes(readers)
